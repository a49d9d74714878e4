"""The data of curves as arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["as_tables"]


def as_tables(curves: Mapping[str, Any], columns: int | None = None) -> dict[str, NDArray[Any]]:
    """The rows of each curve, lists or tensors, as an array (rows, columns).

    Raises:
        ValueError: there are no curves, or the rows of a curve are not numbers of the same count.
    """
    if not curves:
        raise ValueError("a figure needs at least one curve, got none")
    arrays = {}
    for name, rows in curves.items():
        plain = [row.tolist() if isinstance(row, Tensor) else row for row in rows]
        lengths = {np.size(row) if np.ndim(row) == 1 else 0 for row in plain}  # 0: no row of numbers
        if len(lengths) != 1 or 0 in lengths or columns not in (None, *lengths):
            numbers = "numbers, as many in each" if columns is None else f"{columns} numbers"
            raise ValueError(f"the curve {name!r} must be rows of {numbers}, one row per seed, got {plain!s:.80}")
        arrays[name] = np.asarray(plain, dtype=float)
    return arrays
