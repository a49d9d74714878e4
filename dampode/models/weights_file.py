"""Networks on disk: one safetensors file, with the architecture as JSON in its header. Nothing is ever unpickled."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from dampode._checks import require_instance
from dampode._files import write_atomically
from dampode._identity import fingerprint

HEADER = "architecture"
CHECKSUM = "checksum"


def architecture(model: nn.Module) -> dict[str, str]:
    """What a network is made of: every module's path -> its class and settings, parents first.

    Args:
        model: any module; its settings are what its ``extra_repr`` tells.

    Returns:
        A dictionary of strings, fit for JSON.

    Raises:
        ValueError: a setting has no name that says the same in another process: a lambda, or an object whose repr is
            its address.
    """
    described = {name or "model": f"{type(m).__name__}({m.extra_repr()})" for name, m in model.named_modules()}
    for key, value in described.items():
        if "<lambda>" in value or " at 0x" in value:
            raise ValueError(
                f"an architecture needs names that say the same in another process, got {value} at {key!r}: define the "
                "function by def, or give its class a __repr__"
            )
    return described


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, where the model is what torch.compile or DistributedDataParallel made of it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = dict(model.named_children()).get("_orig_mod")
    return model if inner is None else unwrapped(inner)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's state and architecture to one safetensors file.

    The file appears whole or not at all, and holds a checksum, by which `load` knows a damaged one.

    Args:
        model: the network; one compiled or of DistributedDataParallel is saved as the network that it was made of.
        path: the file to write or replace; its folder is made where it is not there.

    Raises:
        TypeError: model is not a module.
        ValueError: a function in it has no name (`architecture`).
        OSError: the file cannot be written.
    """
    require_instance(model, nn.Module, "model")
    model, target = unwrapped(model), Path(path)
    # clones, since a tensor that two modules share stands under two keys
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    header = json.dumps(architecture(model))
    payload = to_bytes(state, {HEADER: header, CHECKSUM: _checksum(header, state)})
    write_atomically(target, lambda file: file.write(payload))


def load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read a file that `save` wrote into a network of the same architecture; the network changes only if all fits.

    Args:
        model: the network to fill, of the file's composition, shapes and dtypes, on any device.
        path: the file.

    Raises:
        ValueError: the file is pickled, truncated, damaged or no checkpoint, or holds another architecture (the first
            key that differs is named, with what the file has and what the model expects).
        FileNotFoundError: there is no such file.
    """
    require_instance(model, nn.Module, "model")
    model = unwrapped(model)
    described, state = _read(Path(path))
    require_architecture(model, described, path)
    expected = {key: _form(value) for key, value in model.state_dict().items()}
    _require_same({key: _form(value) for key, value in state.items()}, expected, path)
    model.load_state_dict(state)


def require_architecture(model: nn.Module, described: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Raise a ValueError unless the `architecture` described in a file is the model's, with the first that differs."""
    _require_same(described, architecture(model), path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The architecture and state of a file, or a worded error."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        raise ValueError(
            f"{path} is pickled, as torch.save writes it; expected a safetensors file of dampode.models.save: "
            "read it with torch.load(..., weights_only=True), load_state_dict, and save it anew"
        )
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({error}); it may have been cut short: copy or save it again"
        ) from error
    if not {HEADER, CHECKSUM} <= set(written):
        raise ValueError(
            f"{path} has no {HEADER!r} or no {CHECKSUM!r} in its header, so it was not written by dampode.models.save; "
            "read it with safetensors.torch.load_file and load_state_dict"
        )
    if written[CHECKSUM] != _checksum(written[HEADER], state):
        raise ValueError(f"{path} is damaged, its checksum does not fit: copy or save it again")
    described: dict[str, str] = json.loads(written[HEADER])
    return described, state


def _checksum(header: str, state: dict[str, Tensor]) -> str:
    return fingerprint(header, *(part for key in sorted(state) for part in (key, state[key])))


def _form(value: Tensor) -> str:
    """Shape and dtype in words."""
    return f"shape {tuple(value.shape)}, {value.dtype}"


def _require_same(found: dict[str, str], expected: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Raise at the first key that is missing, left over or different."""
    for key in [*expected, *found]:
        here, there = found.get(key, "nothing"), expected.get(key, "nothing")
        if here != there:
            raise ValueError(
                f"{path} holds another architecture: at {key!r} the model expects {there}, the file has {here}; "
                "build the model with the arguments it was saved with"
            )
