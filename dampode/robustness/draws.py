"""Random numbers of one image each: they depend neither on the batch, nor on the process, nor on the other images.

Source: Steele, Lea & Flood 2014, SplitMix64.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Generator", "ImageDraws", "normal", "uniform"]

_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""The constants of SplitMix64 as signed numbers."""


@dataclass(frozen=True)
class ImageDraws:
    """A stream of random numbers per image, as functions of the image's key and of a counter.

    Args:
        keys: the images' keys, (N,) int64.
    """

    keys: Tensor

    @classmethod
    def of(cls, n: int, generator: "Generator", device: torch.device) -> "ImageDraws":
        """Streams of n images from one draw of a generator, where image i has the same stream for every n.

        Streams that are already those of n images are returned as they are.
        """
        if isinstance(generator, ImageDraws):
            if len(generator.keys) != n:
                raise ValueError(f"each image needs a stream of its own, got {len(generator.keys)} for {n} images")
            return generator
        seed = torch.randint(2**62, (1,), generator=generator, device=device)
        return cls(_mixed(seed + _GOLDEN * torch.arange(1, n + 1, device=device)))

    @classmethod
    def by_key(cls, images: Tensor, *key: str | int | float) -> "ImageDraws":
        """Streams of images, by their numbers in the data set, (N,), under a key such as a seed and a name."""
        digest = hashlib.sha256(repr(key).encode()).digest()
        seed = int.from_bytes(digest[:8], "big", signed=True)
        return cls(_mixed(_mixed(_GOLDEN * (images + 1)) ^ seed))

    def at(self, index: Tensor) -> "ImageDraws":
        """The streams of some of the images."""
        return ImageDraws(self.keys[index])

    def stream(self, number: int) -> "ImageDraws":
        """Other streams of the same images, independent for each number."""
        jump = (_GOLDEN * (number + 1) + 2**63) % 2**64 - 2**63  # modulo 2⁶⁴, as a signed number
        return ImageDraws(_mixed(self.keys + jump))

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from U[0, 1), (N, *shape), in multiples of 2⁻²⁴."""
        count = torch.Size(shape).numel()
        counters = torch.arange(1, count + 1, device=self.keys.device)
        bits = _mixed(self.keys[:, None] + _GOLDEN * counters)
        return (_shifted(bits, 40).to(dtype) / 2**24).reshape(-1, *shape)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws from N(0, 1), (N, *shape), by Box and Muller's transform."""
        radius, angle = self.stream(0).uniform(*shape, dtype=dtype), self.stream(1).uniform(*shape, dtype=dtype)
        return (-2 * torch.log1p(-radius)).sqrt() * (2 * torch.pi * angle).cos()

    def signs(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draws of −1 or 1, (N, *shape)."""
        return 2 * (self.uniform(*shape, dtype=dtype) < 0.5).to(dtype) - 1

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draws from 0 .. high − 1, (N, *shape), for a high well below 2²⁴."""
        return (self.uniform(*shape, dtype=torch.float64) * high).long()


Generator = torch.Generator | ImageDraws | None
"""The source of an attack's draws: torch's generator for all images together, or a stream for each image."""


def uniform(shape: tuple[int, ...], like: Tensor, generator: Generator, number: int = 0) -> Tensor:
    """Draws from U[0, 1), in the dtype and on the device of ``like``.

    Args:
        shape: (N, *S) for N images.
        like: a tensor whose dtype and device the draws have.
        generator: their source.
        number: number of this draw, counted from 0. Streams per image give the same number the same draws; torch's
            generator moves on by itself.
    """
    if isinstance(generator, ImageDraws):
        return generator.stream(number).uniform(*shape[1:], dtype=like.dtype)
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def normal(shape: tuple[int, ...], like: Tensor, generator: Generator, number: int = 0) -> Tensor:
    """Draws from N(0, 1), as `uniform` draws them."""
    if isinstance(generator, ImageDraws):
        return generator.stream(number).normal(*shape[1:], dtype=like.dtype)
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64, modulo 2⁶⁴."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Z shifted to the right as an unsigned number."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
