"""A figure on disk, and the data it shows beside it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from dampode._files import user_path, write_atomically

__all__ = ["save"]


def save(figure: Figure, data: Mapping[str, Any], path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a figure, and the data it shows as JSON beside it.

    Args:
        figure: the figure.
        data: name -> data: numbers, texts, lists, tensors, arrays, and dataclasses of these.
        path: the figure's file, such as runs/gain.png. The data are written to runs/gain.json. The folder is made if it
            does not exist.
        dpi: dots per inch.

    Returns:
        The path of the JSON file.

    Raises:
        TypeError: the data are of a type that JSON cannot hold.
        ValueError: a number is not finite.
        OSError: a file cannot be written.
    """
    path = user_path(path)
    text = json.dumps(data, default=_plain, allow_nan=False) + "\n"
    write_atomically(path, lambda file: figure.savefig(file, dpi=dpi, format=path.suffix.lstrip(".") or None))
    data_path = path.with_suffix(".json")
    write_atomically(data_path, lambda file: file.write(text.encode()))
    return data_path


def _plain(value: Any) -> Any:
    """A value that the json module cannot write, as plain lists and dictionaries."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"data of a figure must be numbers, texts, lists, tensors or dataclasses, got {type(value)}")
