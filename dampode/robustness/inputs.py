"""Checks of the arguments that attacks and noise take: pixels in [0, 1], and distances between pixels."""

import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative
from dampode._pixels import in_unit_range

__all__ = ["as_pixels", "require_distance"]


def as_pixels(x: Tensor) -> Tensor:
    """The pixels of images in [0, 1], float32 or float64: x itself, or x clamped where rounding exceeds [0, 1].

    Every measurement of a model takes its images through this check, so that all of them mean the same scale.

    Raises:
        ValueError: a pixel lies more than 1.9e-6 outside [0, 1] or is NaN, or there are no images.
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
    return in_unit_range(x)


def require_distance(value: float, name: str) -> None:
    """Raise unless a radius or step in pixel units lies in [0, 1]."""
    require_nonnegative(value, name)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, for pixels lie in [0, 1], got {value}; divide 8-bit units by 255")
