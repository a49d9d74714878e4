"""Checks of the arguments that attacks and noise take: pixels in [0, 1], and distances between pixels."""

import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative, require_positive_int

__all__ = ["require_attack_arguments", "require_distance", "require_pixels"]


def require_pixels(x: Tensor) -> None:
    """Raise unless x holds pixels in [0, 1], float32 or float64."""
    require_instance(x, Tensor, "images")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"pixels must be float32 or float64 in [0, 1], got {x.dtype}; divide 8-bit images by 255, and convert "
            "half precision with .float(): its spacing near 1 is as coarse as the radii of attacks"
        )
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"images must be (N, C, H, W) and must not be empty, got shape {tuple(x.shape)}")
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"pixels must lie in [0, 1], got [{low:g}, {high:g}]; put the normalization into the model")


def require_distance(value: float, name: str) -> None:
    """Raise unless a radius or step in pixel units lies in [0, 1]."""
    require_nonnegative(value, name)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, for pixels lie in [0, 1], got {value}; divide 8-bit units by 255")


def require_attack_arguments(eps: float, batch_size: int) -> None:
    """Raise unless the radius lies in [0, 1] and the batch size is at least 1."""
    require_distance(eps, "eps")
    require_positive_int(batch_size, "batch_size")
