"""Confidence intervals of accuracies."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dampode._checks import require_positive_int

__all__ = ["wilson"]

_Z = 1.959964
"""Of a two-sided interval of 95 %."""


def wilson(accuracy: ArrayLike, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ends of Wilson's 95 % interval for a share of n images.

    It holds for accuracies near 0 and 1 too, where the normal interval is too short or leaves [0, 1].

    Args:
        accuracy: shares in [0, 1], any shape.
        n: number of images, > 0.

    Returns:
        Lower and upper ends, with the shape of accuracy.

    Source: Wilson 1927.
    """
    require_positive_int(n, "n")
    p, square = np.asarray(accuracy, dtype=float), _Z**2
    center = (p + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * np.sqrt(p * (1 - p) / n + square / (4 * n * n))
    return center - half, center + half
