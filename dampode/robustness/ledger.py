"""What is finished of a long measurement, in a file that is always whole, so that an interruption costs little."""

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn


def fingerprint(*parts: nn.Module | Tensor | str) -> str:
    """SHA-256 of modules (printed form, parameters and buffers), tensors (shape, dtype, values) and strings."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            digest.update(f"module {part}".encode())
            for name, value in part.state_dict().items():
                _add(digest, name, value)
        elif isinstance(part, Tensor):
            _add(digest, "", part)
        else:
            digest.update(f"text {part}\n".encode())
    return digest.hexdigest()


class Ledger:
    """Finished pieces of a measurement, key -> JSON value, written through to a file where there is one.

    Args:
        path: the file, or None to keep nothing beyond this process.
        identity: what the measurement is of; a file of another one is refused.

    Raises:
        ValueError: the file is of another measurement, or is no such file.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.finished: dict[str, dict[str, str | float]] = {}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self.finished = _read(path, identity)

    def add(self, key: str, value: dict[str, str | float]) -> None:
        """Enter a finished piece, and write the file: beside it first, then renamed over it."""
        self.finished[key] = value
        if self.path is not None:
            beside = self.path.with_name(self.path.name + ".new")
            with beside.open("w", encoding="utf-8") as file:
                json.dump({"identity": self.identity, "finished": self.finished}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)


def _read(path: Path, identity: str) -> dict[str, dict[str, str | float]]:
    """The finished pieces of a file, or a worded error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, finished = content["identity"], dict(content["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be a partial measurement; it is damaged or of another kind ({error})") from None
    if found != identity:
        raise ValueError(
            f"{path} is a partial measurement of another model, data or settings ({found[:12]} there, "
            f"{identity[:12]} here); delete it, or name another file"
        )
    return finished


def _add(digest: "hashlib._Hash", name: str, value: Tensor) -> None:
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    digest.update(f"tensor {name} {tuple(value.shape)} {value.dtype}\n".encode())
    digest.update(flat.numpy().tobytes())
