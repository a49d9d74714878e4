"""What identifies a model, a data set or a run: fingerprints, checksums, and settings as plain values."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["checksum", "fingerprint", "name_with_identity", "plain", "require_same"]

_UNSET = "unset"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(*parts: nn.Module | Tensor | str) -> str:
    """SHA-256 of modules (printed form, state), tensors (shape, dtype, values) and strings.

    A memory address in a printed form does not count. TorchScript counts with its code and the constants in it.

    Raises:
        TypeError: a module's state holds a value that cannot be pickled.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            digest.update(f"module {_ADDRESS.sub('', str(part))}".encode())
            for name, value in part.state_dict().items():
                _add(digest, name, value)
            if isinstance(part, torch.jit.ScriptModule):
                code, constants = part.code_with_constants
                digest.update(code.encode())
                _add(digest, "constants", constants.const_mapping)
        elif isinstance(part, Tensor):
            _add_tensor(digest, "", part)
        else:
            digest.update(f"text {part}\n".encode())
    return digest.hexdigest()


def name_with_identity(module: nn.Module) -> str:
    """The class of a module and the first digits of its fingerprint, which recognize it in a report."""
    return f"{type(module).__name__} {fingerprint(module)[:12]}"


def checksum(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: sorted keys, no spaces, ASCII only.

    Raises:
        TypeError: JSON cannot hold the value; see `plain`.
        ValueError: a number is NaN or infinite.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def require_same(path: str | Path, found: Mapping[str, Any], asked: Mapping[str, Any], remedy: str) -> None:
    """Raise a ValueError that names every setting in which a file differs from what is asked for.

    Args:
        path: the file.
        found: the settings in the file; nested mappings are compared key by key.
        asked: the settings asked for.
        remedy: what the user can do, the end of the error.
    """
    there, here = _flat(found), _flat(asked)
    differences = [
        f"{key} is {there.get(key, _UNSET)} there and {here.get(key, _UNSET)} here"
        for key in {**there, **here}
        if key not in there or key not in here or there[key] != here[key]
    ]
    if differences:
        raise ValueError(f"{path} must have the settings asked for: {', '.join(differences)}; {remedy}")


def plain(value: Any, name: str) -> Any:
    """A setting as the plain Python values that JSON has: NumPy's numbers become Python's, tuples become lists.

    Args:
        value: None, a string, a number, or a list, tuple or mapping of them.
        name: what an error calls it.

    Raises:
        TypeError: the value is of another type, or a key of a mapping is not a string.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the keys of {name} must be strings, got {key!r} of type {type(key).__name__}")
        return {str(key): plain(one, f"{name}.{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, name) for one in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    raise TypeError(
        f"{name} must be a string or a number, got {value!r} of type {type(value).__name__}; use str or int"
    )


def _add(digest: "hashlib._Hash", name: str, value: Any) -> None:
    """Enter a value of a module's state: a tensor, a collection of values, or an object, such as extra state."""
    if isinstance(value, Tensor):
        _add_tensor(digest, name, value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            _add(digest, f"{name}.{key}", one)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            _add(digest, f"{name}.{index}", one)
    else:
        try:
            digest.update(f"object {name}\n".encode() + pickle.dumps(value))
        except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
            raise TypeError(
                f"the state of a module must hold tensors and objects that pickle can save, got {name!r} of type "
                f"{type(value).__name__} ({error}); change the module's get_extra_state"
            ) from None


def _add_tensor(digest: "hashlib._Hash", name: str, value: Tensor) -> None:
    """Enter a tensor's name, shape, dtype and values."""
    digest.update(f"tensor {name} {tuple(value.shape)} {value.dtype}\n".encode())
    value = value.detach()
    if value.is_quantized:
        digest.update(f"quantized {value.qscheme()}\n".encode())
        value = value.dequantize()
    if value.layout != torch.strided:
        digest.update(f"layout {value.layout}\n".encode())
        value = value.to_dense()
    flat = value.cpu().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
    digest.update(flat.numpy().tobytes())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"recipe.lr": 0.1, ...}; an empty mapping stays."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
