"""The CIFAR ResNeXt-29 as a sequence of transitions and damped blocks, each followed by ReLU."""

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor, nn

from dampode.block import Transition
from dampode.fields import ResNeXtBranch
from dampode.models.image_parts import (
    CIFAR_MEAN,
    CIFAR_STD,
    MakeFlow,
    Normalize,
    initialize_convolutions,
    require_image_sizes,
    three_stages,
)

__all__ = ["ResNeXt29", "ResNeXtOptions"]


class ResNeXtOptions(TypedDict, total=False):
    """The keyword arguments that every ResNeXt takes; `ResNeXt29` documents them."""

    cardinality: int
    width: int
    in_channels: int
    mean: Sequence[float]
    std: Sequence[float]


class ResNeXt29(nn.Module):
    """A stem, three stages of three blocks, a linear classifier: images (N, C, H, W) in [0, 1] -> logits (N, classes).

    ReLU follows every block. Every stage begins with an undamped projection (conv1x1, BN), so six of the
    nine blocks are damped. Convolutions start from N(0, 2 / (k² C_out)).

    Args:
        num_classes: at least 2.
        flow: makes a shape-preserving layer out of a branch and its channels.
        cardinality: groups of the 3x3 convolutions.
        width: channels per group in the first stage, and channels of the stem; the other stages have 2x and 4x.
        in_channels: C of the images.
        mean, std: normalization, one number per channel.

    Raises:
        ValueError: a size is too small, or mean does not fit in_channels.

    Source: Xie et al. 2017, Aggregated residual transformations for deep neural networks, Sec. 5.3.
    """

    def __init__(
        self,
        num_classes: int,
        flow: MakeFlow,
        *,
        cardinality: int = 8,
        width: int = 64,
        in_channels: int = 3,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
    ) -> None:
        super().__init__()
        require_image_sizes(num_classes, width, in_channels, mean)

        def first(before: int, after: int, stride: int) -> nn.Module:
            f = ResNeXtBranch(before, after, stride, cardinality)
            shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False),
                nn.BatchNorm2d(after),
            )
            return nn.Sequential(Transition(f, shortcut), nn.ReLU())

        def rest(channels: int) -> nn.Module:
            return nn.Sequential(flow(ResNeXtBranch(channels, channels, cardinality=cardinality), channels), nn.ReLU())

        channels = ResNeXtBranch.expansion * width
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.stages = three_stages(width, channels, 3, first, rest)
        self.classifier = nn.Linear(4 * channels, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = self.stages(self.stem(self.normalize(x)))
        logits: Tensor = self.classifier(x.mean((-2, -1)))
        return logits
