"""Augmentation of image batches: random translation and flip."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dampode._checks import require_instance

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Random translation (padding, then a random crop of the old size) and horizontal flip, drawn for each image.

    The distribution is that of torchvision's RandomCrop(size, padding=pad, padding_mode=...) and RandomHorizontalFlip.
    The defaults are the paper's for CIFAR. ``Augmentation(pad=0, flip=False)`` changes nothing.

    Args:
        pad: pixels of padding on every side; 0 for no translation.
        flip: whether an image is mirrored with probability 1/2.
        mode: content of the padding: "zero", or "reflect" for the image mirrored at its border.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Yang et al. 2020, Sec. 4.1 (pad 4 with zeros, crop, flip); the authors' code reflects, with pad 2.
    """

    pad: int = 4
    flip: bool = True
    mode: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad must be an int of at least 0, got {self.pad!r}")
        require_instance(self.flip, bool, "flip")
        if self.mode not in ("zero", "reflect"):
            raise ValueError(f"mode must be zero or reflect, got {self.mode!r}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images (N, C, H, W), each by its own draw. The result has the same dtype, device and shape."""
        return self.apply(x, self.draw(len(x), generator))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws for n images, (3, n) int64: first row and first column of the crop, and whether mirrored."""
        device = generator.device
        shift = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator, device=device)
        mirrored = torch.rand(n, 1, generator=generator, device=device) < (0.5 if self.flip else 0.0)
        return torch.stack([shift[0], shift[1], mirrored.long()]).squeeze(-1)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Augment images (N, C, H, W) by the draws (3, N) of `draw`. The result has the same dtype, device and shape.

        Raises:
            ValueError: the image is too small to reflect pad pixels.
        """
        n, channels, height, width = x.shape
        device = x.device
        top, left, mirrored = drawn[..., None]  # (N, 1) each
        across = torch.arange(width, device=device)
        rows = top + torch.arange(height, device=device)  # (N, H), of the padded image
        cols = left + torch.where(mirrored.bool(), width - 1 - across, across)  # (N, W)
        if self.mode == "zero":
            x = F.pad(x, (self.pad,) * 4)
        else:
            if self.pad >= min(height, width):
                raise ValueError(
                    f"pad must be below the image's size to reflect it, got {self.pad} for {height}x{width}"
                )
            rows, cols = _reflected(rows - self.pad, height), _reflected(cols - self.pad, width)
        image = torch.arange(n, device=device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=device).view(1, channels, 1, 1)
        return x[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions in (−size, 2 size − 1), mirrored at the first and last pixel into [0, size)."""
    last = size - 1
    return last - (last - position.abs()).abs()
