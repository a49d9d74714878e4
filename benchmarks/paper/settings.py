"""What a result is made under: the protocol (paper's text or authors' code) and the scale. Never mixed."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dampode.data import Augmentation
from dampode.robustness.attacks import Keep


@dataclass(frozen=True)
class Protocol:
    """The switches where the paper's text and the authors' public code part.

    Args:
        name: part of every result's name.
        augmentation: of the training images.
        anchor: the λ that weight decay pulls In-ResNet's coefficients to; λ-In-ResNet's is 0 in both.
        alpha: step of IFGSM and PGD, in 1/255.
        keep: the iterate that IFGSM and PGD return.
        noise_statistics: what noisy images are normalized by: the training set's mean and SD, or those of the file of
            one kind of noise, all severities together.
        pgd_center: the middle of PGD's ball: the image, or its random start, up to 2ε away in total.
    """

    name: str
    augmentation: Augmentation
    anchor: float
    alpha: float
    keep: Keep
    noise_statistics: Literal["training set", "each file"]
    pgd_center: Literal["image", "start"]


@dataclass(frozen=True)
class Scale:
    """How much of the paper's experiment is run; the depth is never cut.

    Args:
        name: part of every result's name.
        narrow: widths are divided by it.
        epochs: None for the recipe's own.
        train_images, test_images: a fixed random draw of this size; None for all.
        attacked_images: the first of the test images, for the attacks; None for all.
    """

    name: str
    narrow: int = 1
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    attacked_images: int | None = None


@dataclass(frozen=True)
class ReflectedCrop(Augmentation):
    """A random crop after padding by reflection, and a flip: the authors' code."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images (N, C, H, W), each by its own draw."""
        n, _, height, width = x.shape
        row, col = torch.randint(0, 2 * self.pad + 1, (2, n), generator=generator, device=x.device)
        flipped = torch.rand(n, generator=generator, device=x.device) < (0.5 if self.flip else 0.0)
        padded = F.pad(x.float(), (self.pad,) * 4, mode="reflect").to(x.dtype)  # no reflection of uint8 in torch
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, rows, cols, H, W)
        crop = windows[torch.arange(n, device=x.device), :, row, col]
        return torch.where(flipped.view(n, 1, 1, 1), crop.flip(3), crop)


TEXT = Protocol("text", Augmentation(pad=4), 0.0, 2.0, "last", "training set", "image")
CODE = Protocol("code", ReflectedCrop(pad=2), 1.0, 1.0, "last", "each file", "start")
PROTOCOLS = {protocol.name: protocol for protocol in (TEXT, CODE)}

FULL = Scale("full")
SMALL = Scale("small", narrow=4, epochs=40, train_images=10_000, test_images=2_000, attacked_images=500)
SCALES = {scale.name: scale for scale in (FULL, SMALL)}
