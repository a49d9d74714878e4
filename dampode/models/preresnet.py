"""The pre-activation CIFAR ResNet as a sequence of transitions and flows; what a flow is, the caller says."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dampode._checks import require_positive, require_positive_int, require_real
from dampode.block import Transition
from dampode.fields import PreActBasic

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)

MakeFlow = Callable[[nn.Module], nn.Module]
"""Makes a shape-preserving layer out of a residual branch f."""
MakeEntry = Callable[[PreActBasic, nn.Module], nn.Module]
"""Makes a stage's first layer out of its branch and the shortcut that fits it."""


class Normalize(nn.Module):
    """Pixels in [0, 1] to (x − mean) / std, a channel at a time: x (N, C, H, W) -> (N, C, H, W).

    Args:
        mean, std: one number a channel; std > 0.

    Raises:
        ValueError: mean and std differ in length, or a number is out of range; in forward, another channel count.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise ValueError(f"mean and std need one number a channel, got {len(mean)} and {len(std)}")
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
        return (x - self.mean) / self.std


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of a stage entry: BN, ReLU, conv1x1 (stride); the identity where neither shape nor width changes."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
    )


class PreResNet(nn.Module):
    """A stem, three stages of n blocks, a linear classifier: images (N, C, H, W) in [0, 1] -> logits (N, classes).

    Every stage begins with an undamped entry (a projection where width or size changes) and continues with n − 1
    flows, so of the 3n blocks 3(n − 1) are damped. No normalization or ReLU follows the stem; the tail is BN, ReLU,
    average pooling, linear. Convolutions start from N(0, 2 / (k² C_out)).

    Args:
        depth: number of weighted layers, 6n + 2.
        num_classes: at least 2.
        flow: makes a shape-preserving layer out of a branch.
        entry: makes a stage's first layer out of its branch and shortcut; `Transition` adds them.
        width: channels of the first stage; the others have 2x and 4x.
        in_channels: C of the images.
        mean, std: normalization, one number a channel.

    Raises:
        ValueError: no n gives the depth (the nearest depths that fit are named), or a size is too small.

    Source: He et al. 2016, Identity mappings in deep residual networks; Yang et al. 2020, Sec. 4.1.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        flow: MakeFlow,
        entry: MakeEntry = Transition,
        *,
        width: int = 16,
        in_channels: int = 3,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
    ) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("width", width), ("in_channels", in_channels)):
            require_positive_int(value, name)
        require_positive_int(num_classes, "num_classes")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if len(mean) != in_channels:
            raise ValueError(f"mean and std need one number a channel: in_channels is {in_channels}, got {len(mean)}")
        n = blocks_per_stage(depth)
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        stages = []
        channels = width
        for stage, out_channels in enumerate((width, 2 * width, 4 * width)):
            stride = 1 if stage == 0 else 2
            first = entry(PreActBasic(channels, out_channels, stride), projection(channels, out_channels, stride))
            rest = [flow(PreActBasic(out_channels, out_channels)) for _ in range(n - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        x = self.stages(self.stem(self.normalize(x)))
        pooled = torch.relu(self.norm(x)).mean((-2, -1))  # (N, 4 width)
        logits: Tensor = self.classifier(pooled)
        return logits


def blocks_per_stage(depth: int) -> int:
    """Return n of depth = 6n + 2 for basic blocks, or say which depths are nearest."""
    n, rest = divmod(depth - 2, 6)
    if n >= 1 and rest == 0:
        return n
    below, above = 6 * max(n, 1) + 2, 6 * (max(n, 0) + 1) + 2
    raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth}; the nearest are {below} and {above}")
