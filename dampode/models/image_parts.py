"""The parts that all image networks share: normalization, three stages, initial weights, and checks of sizes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dampode._checks import require_positive, require_positive_int, require_real

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "MakeFlow",
    "Normalize",
    "initialize_convolutions",
    "require_image_sizes",
    "three_stages",
]

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)

MakeFlow = Callable[[nn.Module, int], nn.Module]
"""Makes a shape-preserving layer out of a residual branch f and the channels of its state."""


class Normalize(nn.Module):
    """Pixels in [0, 1] to (x − mean) / std, per channel: x (N, C, H, W) -> (N, C, H, W).

    Args:
        mean, std: one number per channel; std > 0.

    Raises:
        ValueError: mean and std differ in length, or a number is out of range; in forward, the channel count differs.
        TypeError: in forward, the pixels are not floating.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std need one number per channel, got {len(mean)} and {len(std)}")
        for m, s in zip(mean, std, strict=True):
            require_real(m, "mean")
            require_positive(s, "std")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalized images."""
        channels = len(self.mean)
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"the model takes images (N, {channels}, H, W), got shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"the model takes floating pixels in [0, 1], got {x.dtype}; divide 8-bit images by 255")
        return (x - self.mean) / self.std


def three_stages(
    in_channels: int,
    out_channels: int,
    n: int,
    first: Callable[[int, int, int], nn.Module],
    rest: Callable[[int], nn.Module],
) -> nn.Sequential:
    """Three stages of n blocks. The second and the third halve the image and double the channels.

    Args:
        in_channels: C before the first stage.
        out_channels: C of the first stage.
        n: blocks per stage.
        first: makes a stage's first block out of (in_channels, out_channels, stride).
        rest: makes a further block out of its channels.

    Returns:
        The stages, each a Sequential: (N, in_channels, H, W) -> (N, 4 out_channels, H / 4, W / 4).
    """
    stages = []
    for stage in range(3):
        width = out_channels * 2**stage
        blocks = [first(in_channels, width, 1 if stage == 0 else 2)]
        blocks += [rest(width) for _ in range(n - 1)]
        stages.append(nn.Sequential(*blocks))
        in_channels = width
    return nn.Sequential(*stages)


def initialize_convolutions(model: nn.Module) -> None:
    """Draw every convolution's weights from N(0, 2 / (k² C_out)), He et al. 2015."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def require_image_sizes(num_classes: int, width: int, in_channels: int, mean: Sequence[float]) -> None:
    """Raise unless the sizes of an image classifier fit together."""
    require_positive_int(width, "width")
    require_positive_int(in_channels, "in_channels")
    require_positive_int(num_classes, "num_classes")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if len(mean) != in_channels:
        raise ValueError(f"mean and std need one number per channel: in_channels is {in_channels}, got {len(mean)}")
