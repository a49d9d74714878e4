"""Sources of corrupted images: noise drawn here, CIFAR-C's files, or either of them normalized per file."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dampode._checks import as_seed, require_instance, require_labels, require_positive
from dampode._files import user_path
from dampode._identity import fingerprint
from dampode.robustness.inputs import as_pixels
from dampode.robustness.noise.cifar_c_files import IMAGES_PER_SEVERITY, cifar_c_images, cifar_c_labels
from dampode.robustness.noise.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    corrupt,
    require_corruption,
    require_drawn,
    require_severity,
)
from dampode.robustness.random_blocks import BLOCK_SIZE, block_generator, blocks

__all__ = ["CifarCFiles", "DrawnNoise", "NoiseSource", "NormalizedPerFile", "indices_of_images"]

SEVERITY_LEVELS = (1, 2, 3, 4, 5)
SMALLEST_VARIANCE = 1e-12
"""A channel of smaller variance is constant but for rounding errors."""


class NoiseSource(ABC):
    """Corrupted versions of n images in their order, one block of `random_blocks` at a time.

    Attributes:
        title: describes the images in a report.
        n: number of images.
        names: the corruptions that it has, which `evaluate` measures by default.

    A source's ``repr`` identifies its images. A partial measurement resumes only with a source of the same ``repr``, so
    the ``repr`` must not contain a memory address.
    """

    title: str
    n: int
    names: tuple[str, ...]

    @abstractmethod
    def require(self, name: str, severity: int) -> None:
        """Raise if the source cannot give a corruption at a severity, before anything is measured."""

    @abstractmethod
    def block(self, name: str, severity: int, index: int) -> Tensor:
        """One block of images (B, C, H, W) under a corruption of a severity, as the model takes them."""

    def select(self, name: str, severity: int, indices: Tensor) -> Tensor:
        """The corrupted images of ascending indices (M,), on the CPU, in this order."""
        found = []
        for index in (indices // BLOCK_SIZE).unique().tolist():
            inside = indices[indices // BLOCK_SIZE == index] - index * BLOCK_SIZE
            block = self.block(name, severity, index)
            found.append(block[inside.to(block.device)])
        return torch.cat(found)


class DrawnNoise(NoiseSource):
    """Noise drawn by `corrupt` from clean images.

    Args:
        x: clean pixels in [0, 1], (N, C, H, W).
        seed: seed of the draws.

    Raises:
        ValueError: pixels lie outside [0, 1].
        TypeError: pixels are not float32 or float64, or the seed is not an int.
    """

    def __init__(self, x: Tensor, seed: int = 0) -> None:
        self.title, self.names = "CIFAR-C-style, drawn here", tuple(SEVERITIES)
        self.x, self.seed, self.n = as_pixels(x), as_seed(seed), len(x)

    def __repr__(self) -> str:
        return f"DrawnNoise(images {fingerprint(self.x)[:12]}, seed={self.seed})"

    def require(self, name: str, severity: int) -> None:
        """Raise unless the noise can be drawn."""
        require_drawn(name)
        require_severity(severity)

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """One block of images under its own draws."""
        generator = block_generator(self.x.device, self.seed, name, severity, index)
        return corrupt(self.x[blocks(self.n)[index]], name, severity, generator)


class CifarCFiles(NoiseSource):
    """The official files of CIFAR-10-C or CIFAR-100-C: the 15 + 4 corruptions.

    Only labels.npy and the corruptions that are measured need to exist. By default `evaluate` measures those that do.

    Args:
        folder: folder of the .npy files.
        y: labels of the measured images.
        device: device of the images that `block` returns.
        images: indices of the measured images in the test set, (N,) int64; None for the whole test set in its order.

    Raises:
        ValueError: the labels differ from the files', an index is outside the test set, or as in `load_cifar_c`.
        TypeError: the indices are not int64.
        FileNotFoundError: a file does not exist.
    """

    def __init__(
        self, folder: str | Path, y: Tensor, device: torch.device | str = "cpu", images: Tensor | None = None
    ) -> None:
        labels = cifar_c_labels(folder)[:IMAGES_PER_SEVERITY]
        require_labels(y, len(y))
        self.rows = (
            torch.arange(len(labels), device="cpu") if images is None else indices_of_images(images, len(labels))
        )
        labels = labels[self.rows]
        if not torch.equal(labels, y.cpu()):
            raise ValueError(
                f"the labels of {folder} must be those of the images: the files corrupt the whole test set in its "
                f"order ({len(labels)} labels are asked for), got {len(y)} labels that differ; measure on the whole "
                "test set, or pass the indices of the images as images="
            )
        self.title = "CIFAR-C, official files"
        self.folder, self.labels, self.device, self.n = user_path(folder), labels, torch.device(device), len(labels)
        known = CORRUPTIONS + EXTRA_CORRUPTIONS
        self.names = tuple(name for name in known if (self.folder / f"{name}.npy").is_file())
        if not self.names:
            raise FileNotFoundError(
                f"{self.folder} must hold a corruption beside labels.npy, such as {known[0]}.npy, got none; download "
                "CIFAR-10-C or CIFAR-100-C and name its folder"
            )

    def __repr__(self) -> str:
        return f"CifarCFiles({self._digest})"

    @cached_property
    def _digest(self) -> str:
        """The identity of the corruptions and labels in the folder. The official files take some seconds."""
        files = [part for name in self.names for part in (name, _file_digest(self.folder / f"{name}.npy"))]
        return fingerprint(self.rows, self.labels, *files)[:12]

    def require(self, name: str, severity: int) -> None:
        """Raise unless the file of a corruption can be read."""
        require_corruption(name)
        require_severity(severity)
        cifar_c_images(self.folder, name)

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """One block of images, read from the file."""
        chosen = (severity - 1) * IMAGES_PER_SEVERITY + self.rows[blocks(self.n)[index]]
        part = torch.from_numpy(cifar_c_images(self.folder, name)[chosen.numpy()])
        return part.to(self.device).permute(0, 3, 1, 2).contiguous().float() / 255


def indices_of_images(images: Tensor, n: int) -> Tensor:
    """Indices of images in a test set of n, on the CPU, or a worded error."""
    require_instance(images, Tensor, "images", "pass indices as an int64 tensor (N,)")
    if images.dtype != torch.int64 or images.ndim != 1:
        raise TypeError(f"images must be int64 indices (N,), got {images.dtype} of shape {tuple(images.shape)}")
    if images.numel() == 0 or int(images.min()) < 0 or int(images.max()) >= n:
        raise ValueError(f"images must be indices in [0, {n}), at least one, got {images.tolist()[:10]}")
    return images.cpu()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NormalizedPerFile(NoiseSource):
    """The protocol of the paper authors' code: each noise is normalized by its own mean and standard deviation.

    Let m and s be a channel's mean and standard deviation over the noisy images of all five severities. A model that
    normalizes by (x − mean) / std is given mean + std (x − m) / s, so its layers see (x − m) / s. This uses statistics
    of many noisy images, which a classifier of single images does not have. Use it only to compare with numbers
    obtained in the same way.

    Args:
        source: the noisy images.
        mean, std: the model's own normalization, one number per channel.

    Raises:
        ValueError: std is not positive. `block` raises it where the images have another number of channels, or a
            channel is constant.

    Source: test_noise.py of the public code of Yang et al. 2020.
    """

    def __init__(self, source: NoiseSource, mean: Sequence[float], std: Sequence[float]) -> None:
        for s in std:
            require_positive(s, "std")
        self.title = f"{source.title}, normalized per file (the authors' protocol)"
        self.source, self.mean, self.std = source, tuple(mean), tuple(std)
        self.n, self.names = source.n, source.names
        self._statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"NormalizedPerFile({self.source}, mean={self.mean}, std={self.std})"

    def require(self, name: str, severity: int) -> None:
        """Raise unless the source can give a noise at all severities, which its statistics need."""
        for each in (severity, *SEVERITY_LEVELS):
            self.source.require(name, each)

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """One block of images, normalized by the statistics of its noise."""
        if name not in self._statistics:
            self._statistics[name] = self._measure(name)
        m, s = self._statistics[name]
        x = self.source.block(name, severity, index)
        if x.shape[1] != len(self.mean) or x.shape[1] != len(self.std):
            raise ValueError(f"mean and std need one number for each of {x.shape[1]} channels, got {self}")
        mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean + std * (x - m.to(x)) / s.to(x)

    def _measure(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all severities, (C, 1, 1), float64."""
        count, total, squares = 0, *torch.zeros(2, dtype=torch.float64, device="cpu")
        for severity in SEVERITY_LEVELS:
            for index in range(len(blocks(self.n))):
                x = self.source.block(name, severity, index).double().transpose(0, 1).flatten(1).cpu()
                count += x.shape[1]
                total, squares = total + x.sum(1), squares + x.square().sum(1)
        m = total / count
        variance = squares / count - m.square()
        if not bool((variance > SMALLEST_VARIANCE).all()):
            raise ValueError(
                f"each channel must vary to be normalized by its deviation, got {name} of means {m.tolist()} and "
                f"variances {variance.tolist()}; measure without NormalizedPerFile"
            )
        return m.view(-1, 1, 1), variance.sqrt().view(-1, 1, 1)
