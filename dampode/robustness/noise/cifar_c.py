"""The official files of CIFAR-10-C and CIFAR-100-C, where a user has them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dampode.robustness.noise.corruptions import require_noise

SIZE = 10_000
"""Images of a severity: the CIFAR test set."""


def load_cifar_c(folder: str | Path, name: str, severity: int | None = None) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Open one noise of CIFAR-10-C or CIFAR-100-C, memory-mapped.

    A file <name>.npy holds 5 x 10,000 images 32 x 32 x 3, uint8, severity 1 first; labels.npy the labels.

    Args:
        folder: where the files lie.
        name: a key of ``SEVERITIES``.
        severity: 1 to 5; None for all, severity after severity.

    Returns:
        The images, (10,000 or 50,000, 32, 32, 3) uint8 in 0..255, read only as they are indexed, and labels, (10,000
        or 50,000,) int64.

    Raises:
        ValueError: no such noise or severity, or a file is truncated or of another shape or dtype.
        FileNotFoundError: a file is not there.

    Source: Hendrycks & Dietterich 2019.
    """
    require_noise(name, 1 if severity is None else severity)
    images = _open(Path(folder) / f"{name}.npy", (5 * SIZE, 32, 32, 3), "uint8 images")
    if images.dtype != np.uint8:
        raise ValueError(f"{Path(folder) / name}.npy must hold uint8 in 0..255, got {images.dtype}")
    labels = _open(Path(folder) / "labels.npy", (5 * SIZE,), "labels")
    if labels.dtype.kind not in "ui":
        raise ValueError(f"{Path(folder) / 'labels.npy'} must hold integers, got {labels.dtype}")
    part = slice(None) if severity is None else slice((severity - 1) * SIZE, severity * SIZE)
    return images[part], torch.from_numpy(labels[part].astype(np.int64))


def _open(path: Path, shape: tuple[int, ...], what: str) -> np.ndarray[Any, Any]:
    """A memory-mapped .npy file of a given shape, or a worded error."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist: download CIFAR-10-C or CIFAR-100-C and name its folder")
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} must be a whole .npy file; it is truncated or of another kind ({error})") from None
    if array.shape != shape:
        raise ValueError(f"{path} must hold {what} of shape {shape}, got {array.shape}; download it again")
    return array
