"""Checkpoints of training runs: files that are always whole."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from dampode._files import is_there, user_path, write_atomically

__all__ = ["load_checkpoint", "save_checkpoint"]

KEYS = frozenset({"settings", "architecture", "model", "optimizer", "scaler", "random", "position", "history"})
"""The parts of a checkpoint. Every part is a dict."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        OSError: the file cannot be written; an existing checkpoint is then untouched.
    """
    write_atomically(user_path(path), lambda file: torch.save(state, file))


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint of `save_checkpoint`: tensors and plain values only, no code.

    Args:
        path: the file.
        map_location: the device for its tensors.

    Returns:
        The state, with the keys `fit` wrote; ``state["model"]`` is the state_dict of the model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a folder or a broken link, or the file is damaged, truncated or no checkpoint.
    """
    path = user_path(path)
    if not path.is_file():
        if is_there(path):
            raise ValueError(f"checkpoint {path} must be a file; got a folder, or a link that leads to no file")
        raise FileNotFoundError(f"checkpoint {path} must exist; got no such file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads the numbers without comparing their checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not fit")
        state: Any = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch and pickle raise a dozen kinds of errors for damaged files
        raise ValueError(f"{path} must be a whole checkpoint; it is damaged or of another kind ({error})") from None
    if not isinstance(state, dict) or set(state) != KEYS:
        raise ValueError(f"{path} must be a checkpoint of dampode.training with {sorted(KEYS)}")
    if empty := sorted(key for key, part in state.items() if not isinstance(part, dict)):
        raise ValueError(f"{path} must be a whole checkpoint; its {', '.join(empty)} is no dict: remove the file")
    return state
