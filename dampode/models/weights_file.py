"""Networks on disk: one safetensors file with the architecture as JSON in its header. Nothing is ever unpickled."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from dampode._checks import require_instance
from dampode._files import user_path, write_atomically
from dampode._identity import fingerprint

__all__ = ["architecture", "load", "require_architecture", "save", "unwrapped"]

HEADER = "architecture"
CHECKSUM = "checksum"


def architecture(model: nn.Module) -> dict[str, str]:
    """The parts of a network: the path of every module -> its class and settings, parents first.

    Args:
        model: any module; its ``extra_repr`` gives its settings.

    Returns:
        A dictionary of strings, which JSON can hold.

    Raises:
        ValueError: a setting has no name that another process would understand: a lambda, or an object whose repr
            shows its address.
    """
    described = {name or "model": f"{type(m).__name__}({m.extra_repr()})" for name, m in model.named_modules()}
    for key, value in described.items():
        if "<lambda>" in value or " at 0x" in value:
            raise ValueError(
                f"an architecture needs names that another process understands, got {value} at {key!r}: define the "
                "function by def, or give its class a __repr__"
            )
    return described


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, without the wrappers of torch.compile, DataParallel and DistributedDataParallel."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = dict(model.named_children()).get("_orig_mod")
    return model if inner is None else unwrapped(inner)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network's state and architecture to one safetensors file.

    The file appears whole or not at all. It holds a checksum, by which `load` recognizes a damaged file.

    Args:
        model: the network. A model wrapped by torch.compile or DistributedDataParallel is unwrapped first.
        path: the file to write or replace; its folder is made if it is missing.

    Raises:
        TypeError: model is not a module.
        ValueError: a function in the model has no name (`architecture`).
        OSError: the file cannot be written.
    """
    require_instance(model, nn.Module, "model")
    model, target = unwrapped(model), user_path(path)
    # clones, because safetensors refuses a tensor that two keys share
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    header = json.dumps(architecture(model))
    payload = to_bytes(state, {HEADER: header, CHECKSUM: _checksum(header, state)})
    write_atomically(target, lambda file: file.write(payload))


def load(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read a file that `save` wrote into a network of the same architecture. If anything differs, nothing changes.

    Args:
        model: the network to fill, with the file's architecture, shapes and dtypes, on any device.
        path: the file.

    Raises:
        ValueError: the file is pickled, truncated, damaged or not written by `save`, or holds another architecture. The
            error names the first key that differs, with both values.
        FileNotFoundError: there is no such file.
    """
    require_instance(model, nn.Module, "model")
    model = unwrapped(model)
    described, state = _read(user_path(path))
    require_architecture(model, described, path)
    expected = {key: _form(value) for key, value in model.state_dict().items()}
    _require_same({key: _form(value) for key, value in state.items()}, expected, path)
    model.load_state_dict(state)


def require_architecture(model: nn.Module, described: dict[str, str], path: str | os.PathLike[str]) -> None:
    """Raise a ValueError, which names the first difference, unless a file's `architecture` is the model's."""
    _require_same(described, architecture(model), path)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The architecture and state of a file, or a worded error."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        raise ValueError(
            f"{path} is pickled, as torch.save writes it; expected a safetensors file of dampode.models.save: "
            "read it with torch.load(..., weights_only=True) and load_state_dict, and save it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); it may have been cut short: copy or save it again"
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
    """Raise at the first key that is missing, superfluous or different."""
    for key in [*expected, *found]:
        here, there = found.get(key, "nothing"), expected.get(key, "nothing")
        if here != there:
            raise ValueError(
                f"{path} holds another architecture: at {key!r} the model expects {there}, the file has {here}; "
                "build the model with the arguments it was saved with"
            )
