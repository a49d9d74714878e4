"""Checkpoints that are always whole."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dampode._files import write_atomically

KEYS = frozenset({"settings", "architecture", "model", "optimizer", "scaler", "random", "position", "history"})


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: it cannot be written; the old checkpoint is then as it was.
    """
    write_atomically(Path(path), lambda file: torch.save(state, file))


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint`: tensors and plain values only, no code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, truncated or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path} must exist; got no such file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads the numbers without looking at their checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")
        state: Any = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # damage makes torch and pickle raise a dozen kinds
        raise ValueError(f"{path} must be a whole checkpoint; it is damaged or of another kind ({error})") from None
    if not isinstance(state, dict) or set(state) != KEYS:
        raise ValueError(f"{path} must be a checkpoint of dampode.training with {sorted(KEYS)}")
    return state


def require_same_run(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise a ValueError that names every setting in which a checkpoint's run differs from the one asked for."""
    there, here = _flat(found), _flat(asked)
    names = [name for name in {**there, **here} if there.get(name, "unset") != here.get(name, "unset")]
    if names:
        differences = ", ".join(f"{n} is {there.get(n, 'unset')} there and {here.get(n, 'unset')} here" for n in names)
        raise ValueError(f"{path} must be of this run: {differences}; resume with its settings or choose another file")


def plain(value: Any, name: str) -> Any:
    """A setting as plain Python values, which a checkpoint gives back: NumPy's floats become floats.

    Raises:
        TypeError: it is something else, which no checkpoint would be read with.
    """
    if isinstance(value, Mapping):
        return {key: plain(one, f"{name}.{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(one, name) for one in value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(
        f"{name} must be a string or a number, got {value!r} of type {type(value).__name__}; use str or int"
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {"recipe.lr": 0.1, ...}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
