"""Checks of the arguments that attacks and noise take: pixels in [0, 1], and distances between pixels."""

import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative

__all__ = ["as_pixels", "require_distance"]

ROUNDING = 1e-6
"""How far rounding may take a pixel out of [0, 1]; such a pixel is clipped."""


def as_pixels(x: Tensor) -> Tensor:
    """The pixels of images in [0, 1], float32 or float64: x itself, or x clipped where rounding exceeds [0, 1].

    Every measurement of a model takes its images through this check, so that all of them mean the same scale.

    Raises:
        ValueError: a pixel lies more than 1e-6 outside [0, 1] or is NaN, or there are no images.
        TypeError: x is not a float32 or float64 tensor.
    """
    require_instance(x, Tensor, "images", "use torch.from_numpy")
    if x.dtype == torch.uint8:
        raise TypeError("pixels must be float32 or float64 in [0, 1], got torch.uint8; use x.float() / 255")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"pixels must be float32 or float64 in [0, 1], got {x.dtype}; convert them with .float(). In half "
            "precision the spacing near 1 is as coarse as the radii of attacks"
        )
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"images must be (N, C, H, W) and must not be empty, got shape {tuple(x.shape)}")
    low, high = x.min().item(), x.max().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(
            f"pixels must lie in [0, 1], got [{low:g}, {high:g}]; divide images in 0..255 by 255, and put the "
            "normalization into the model"
        )
    return x if low >= 0 and high <= 1 else x.clamp(0, 1)


def require_distance(value: float, name: str) -> None:
    """Raise unless a radius or step in pixel units lies in [0, 1]."""
    require_nonnegative(value, name)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, for pixels lie in [0, 1], got {value}; divide 8-bit units by 255")
