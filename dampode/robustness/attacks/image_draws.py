"""Random numbers of one image each: they depend neither on the batch nor on which other images are still attacked."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImageDraws"]

_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""The constants of SplitMix64 as signed numbers."""


@dataclass(frozen=True)
class ImageDraws:
    """A stream of random numbers per image, as functions of the image's key and of a counter.

    Args:
        keys: the images' keys, (N,) int64.

    Source: Steele, Lea & Flood 2014, SplitMix64.
    """

    keys: Tensor

    @classmethod
    def of(cls, n: int, generator: torch.Generator | None, device: torch.device) -> "ImageDraws":
        """Streams of n images from one draw of a generator. Image i has the same stream for every n."""
        seed = torch.randint(2**62, (1,), generator=generator, device=device)
        return cls(_mixed(seed + _GOLDEN * torch.arange(1, n + 1, device=device)))

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


def _mixed(z: Tensor) -> Tensor:
    """The output function of SplitMix64, modulo 2⁶⁴."""
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Z shifted to the right as an unsigned number."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
