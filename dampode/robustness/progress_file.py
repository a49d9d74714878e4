"""What is finished of a long measurement, in a file that is always whole, so that an interruption costs little."""

import json
from pathlib import Path

from dampode._files import write_atomically
from dampode._identity import checksum


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
        if path is not None and path.exists():
            self.finished = _read(path, identity)

    def add(self, key: str, value: dict[str, str | float]) -> None:
        """Enter a finished piece, and write the file, whole or not at all."""
        self.finished[key] = value
        if self.path is not None:
            content = {"identity": self.identity, "finished": self.finished, "checksum": checksum(self.finished)}
            write_atomically(self.path, lambda file: file.write(json.dumps(content).encode()))


def _read(path: Path, identity: str) -> dict[str, dict[str, str | float]]:
    """The finished pieces of a file, or a worded error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, finished = content["identity"], dict(content["finished"])
        if content["checksum"] != checksum(finished):
            raise ValueError("its checksum does not fit")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be a partial measurement; it is damaged or of another kind ({error})") from None
    if found != identity:
        raise ValueError(
            f"{path} is a partial measurement of another model, data or settings ({found[:12]} there, "
            f"{identity[:12]} here); delete it, or name another file"
        )
    return finished
