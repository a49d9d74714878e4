"""The range of pixels: [0, 1], up to rounding."""

import torch
from torch import Tensor

__all__ = ["in_unit_range"]

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""How far rounding may take a pixel out of [0, 1], 1.9e-6; one eps for a dtype of fewer bits."""


def in_unit_range(x: Tensor, name: str = "pixels") -> Tensor:
    """Floating pixels in [0, 1]: x itself, or x clamped where rounding takes it out of [0, 1].

    Args:
        x: floating pixels, not empty.
        name: what an error calls them.

    Raises:
        ValueError: a pixel lies further outside or is NaN.
    """
    low, high = x.min().item(), x.max().item()
    rounding = max(ROUNDING, torch.finfo(x.dtype).eps)
    if not (low >= -rounding and high <= 1 + rounding):
        raise ValueError(
            f"{name} must lie in [0, 1], got [{low:.9g}, {high:.9g}]; divide images in 0..255 by 255, and put the "
            "normalization into the model"
        )
    return x if low >= 0 and high <= 1 else x.clamp(0, 1)
