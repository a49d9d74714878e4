"""Where noisy images come from: drawn anew, read from CIFAR-C's files, or either normalized file by file."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dampode._checks import as_seed, require_labels, require_positive
from dampode._identity import fingerprint
from dampode.robustness.noise.cifar_c import load_cifar_c
from dampode.robustness.noise.corruptions import SEVERITIES, corrupt, require_pixels

BLOCK = 1000
"""Images that share a stream of random numbers: results do not depend on the batch size of a forward pass."""
CONSTANT = 1e-12
"""A channel's variance up to which it holds one number and rounding errors."""


def blocks(n: int) -> list[slice]:
    """The blocks of n images."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def stream(device: torch.device, *parts: str | int | float) -> torch.Generator:
    """A generator of its own for whatever the parts name, such as a seed, a noise, a severity and a block."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class NoiseSource(ABC):
    """Noisy versions of n images in order, a block at a time.

    ``title`` says in a report what the images are, and ``repr`` what tells this source from others: a partial
    measurement is gone on with where it is the same, so it holds no address in memory.
    """

    title: str
    n: int

    @abstractmethod
    def block(self, name: str, severity: int, index: int) -> Tensor:
        """Images (B, C, H, W) of a noise, severity and block, as the model takes them."""


class Drawn(NoiseSource):
    """`corrupt` applied to images: CIFAR-C's noise, with draws of our own.

    Args:
        x: clean pixels in [0, 1], (N, C, H, W).
        seed: seed of the draws.
    """

    def __init__(self, x: Tensor, seed: int = 0) -> None:
        require_pixels(x)
        self.title = "CIFAR-C-style, drawn here"
        self.x, self.seed, self.n = x, as_seed(seed), len(x)

    def __repr__(self) -> str:
        return f"Drawn(images {fingerprint(self.x)[:12]}, seed={self.seed})"

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """The block's images under their own draws."""
        generator = stream(self.x.device, self.seed, name, severity, index)
        return corrupt(self.x[blocks(self.n)[index]], name, severity, generator)


class CifarCFiles(NoiseSource):
    """The official files of CIFAR-10-C or CIFAR-100-C.

    Args:
        folder: where the .npy files lie.
        y: labels of the images that are measured, which have to be the files' own: the whole test set, in order.
        device: where the images are wanted.

    Raises:
        ValueError: labels differ from the files', or as `load_cifar_c`.
        FileNotFoundError: a file is not there.
    """

    def __init__(self, folder: str | Path, y: Tensor, device: torch.device | str = "cpu") -> None:
        _, labels = load_cifar_c(folder, "gaussian_noise", 1)
        require_labels(y, len(y))
        if not torch.equal(labels, y.cpu()):
            raise ValueError(
                f"the labels of {folder} must be those of the images: the files corrupt the whole test set in its "
                f"order ({len(labels)} labels), got {len(y)} labels; measure on the whole test set"
            )
        self.title = "CIFAR-C, official files"
        self.folder, self.labels, self.device, self.n = Path(folder), labels, torch.device(device), len(labels)

    def __repr__(self) -> str:
        return f"CifarCFiles({self._digest})"

    @cached_property
    def _digest(self) -> str:
        """Of the folder's noises and labels; a second or two for the official files."""
        there = [path for path in (self.folder / f"{name}.npy" for name in SEVERITIES) if path.is_file()]
        return fingerprint(self.labels, *(part for path in there for part in (path.name, _file_digest(path))))[:12]

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """The block's images from the file."""
        images, _ = load_cifar_c(self.folder, name, severity)
        part = torch.from_numpy(images[blocks(self.n)[index]].copy())
        return part.to(self.device).permute(0, 3, 1, 2).contiguous().float() / 255


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NormalizedPerFile(NoiseSource):
    """The protocol of the paper authors' code: each noise's five severities are normalized by their own statistics.

    A model that normalizes by (x − mean) / std is given mean + std (x − m) / s, with m and s a channel's mean and
    standard deviation over all noisy images of that noise, so that it sees (x − m) / s. That uses knowledge of the
    noise which a classifier of single images has not: for comparison with numbers obtained so.

    Args:
        source: the noisy images.
        mean, std: the model's own normalization, one number a channel.

    Raises:
        ValueError: std is not above 0; at a block, numbers and channels differ in number, or a channel is constant.

    Source: test_noise.py of the public code of Yang et al. 2020.
    """

    def __init__(self, source: NoiseSource, mean: Sequence[float], std: Sequence[float]) -> None:
        for s in std:
            require_positive(s, "std")
        self.title = f"{source.title}, normalized per file (the authors' protocol)"
        self.source, self.mean, self.std, self.n = source, tuple(mean), tuple(std), source.n
        self._statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"NormalizedPerFile({self.source}, mean={self.mean}, std={self.std})"

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """The block's images, renormalized."""
        if name not in self._statistics:
            self._statistics[name] = self._measure(name)
        m, s = self._statistics[name]
        x = self.source.block(name, severity, index)
        if x.shape[1] != len(self.mean) or x.shape[1] != len(self.std):
            raise ValueError(f"mean and std need one number for each of {x.shape[1]} channels, got {self}")
        mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean + std * (x - m.to(x)) / s.to(x)

    def _measure(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel over all severities, (C, 1, 1) in float64."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for severity in range(1, 6):
            for index in range(len(blocks(self.n))):
                x = self.source.block(name, severity, index).double().transpose(0, 1).flatten(1).cpu()
                count += x.shape[1]
                total, squares = total + x.sum(1), squares + x.square().sum(1)
        m = total / count
        variance = squares / count - m.square()
        if not bool((variance > CONSTANT).all()):
            raise ValueError(
                f"each channel must vary to be normalized by its deviation, got {name} of means {m.tolist()} and "
                f"variances {variance.tolist()}; leave NormalizedPerFile out"
            )
        return m.view(-1, 1, 1), variance.sqrt().view(-1, 1, 1)
