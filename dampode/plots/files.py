"""A figure on disk, with the data behind it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


def save(figure: Figure, data: Mapping[str, Any], path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a figure, and beside it, as .json, the data that it shows.

    Args:
        figure: the figure.
        data: by name; numbers, texts, lists, tensors, arrays and dataclasses of these.
        path: the figure's file, such as runs/gain.png; the data go to runs/gain.json. Folders are made.
        dpi: dots an inch.

    Returns:
        The data's file.

    Raises:
        TypeError: a kind of data that JSON cannot hold.
        ValueError: a number that is not finite.
    """
    file = Path(path)
    text = json.dumps(data, default=_plain, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=dpi)
    beside = file.with_suffix(".json")
    beside.write_text(text + "\n", encoding="utf-8")
    return beside


def _plain(value: Any) -> Any:
    """What json cannot write by itself."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"data of a figure must be numbers, texts, lists, tensors or dataclasses, got {type(value)}")
