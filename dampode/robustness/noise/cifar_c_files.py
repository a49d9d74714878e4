"""A reader for the official files of CIFAR-10-C and CIFAR-100-C."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dampode._files import user_path
from dampode.robustness.noise.corruptions import require_corruption, require_severity

__all__ = ["IMAGES_PER_SEVERITY", "cifar_c_images", "cifar_c_labels", "load_cifar_c"]

IMAGES_PER_SEVERITY = 10_000
"""The size of the CIFAR test set."""


def load_cifar_c(folder: str | Path, name: str, severity: int | None = None) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Open one corruption of CIFAR-10-C or CIFAR-100-C, memory-mapped.

    The file <name>.npy holds 5 x 10,000 images 32 x 32 x 3, uint8, severity 1 first. labels.npy holds the labels.

    Args:
        folder: folder of the .npy files.
        name: one of ``CORRUPTIONS`` or ``EXTRA_CORRUPTIONS``, the 15 + 4 files.
        severity: 1 to 5; None for all five, in order.

    Returns:
        The images, (10,000 or 50,000, 32, 32, 3), uint8 in 0..255, and the labels, (10,000 or 50,000,), int64. An
        image is read from the disk only when it is indexed.

    Raises:
        ValueError: the corruption or the severity is unknown, or a file is truncated or of another shape or dtype.
        FileNotFoundError: a file does not exist.

    Source: Hendrycks & Dietterich 2019.
    """
    require_corruption(name)
    part = slice(None)
    if severity is not None:
        require_severity(severity)
        part = slice((severity - 1) * IMAGES_PER_SEVERITY, severity * IMAGES_PER_SEVERITY)
    return cifar_c_images(folder, name)[part], cifar_c_labels(folder)[part]


def cifar_c_images(folder: str | Path, name: str) -> np.ndarray[Any, Any]:
    """One corruption's images of all severities, (50,000, 32, 32, 3) uint8, memory-mapped. Errors as `load_cifar_c`."""
    images = _open(user_path(folder) / f"{name}.npy", (5 * IMAGES_PER_SEVERITY, 32, 32, 3), "uint8 images")
    if images.dtype != np.uint8:
        raise ValueError(f"{user_path(folder) / name}.npy must hold uint8 in 0..255, got {images.dtype}")
    return images


def cifar_c_labels(folder: str | Path) -> Tensor:
    """The labels of the images at all severities, (50,000,) int64. Errors as `load_cifar_c`."""
    labels = _open(user_path(folder) / "labels.npy", (5 * IMAGES_PER_SEVERITY,), "labels")
    if labels.dtype.kind not in "ui":
        raise ValueError(f"{user_path(folder) / 'labels.npy'} must hold integers, got {labels.dtype}")
    return torch.from_numpy(labels.astype(np.int64))


def _open(path: Path, shape: tuple[int, ...], content: str) -> np.ndarray[Any, Any]:
    """A memory-mapped .npy file of a given shape."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: download CIFAR-10-C or CIFAR-100-C and name its folder")
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} must be a whole .npy file; it is truncated or of another kind ({error})") from None
    if array.shape != shape:
        raise ValueError(f"{path} must hold {content} of shape {shape}, got {array.shape}; download it again")
    return array
