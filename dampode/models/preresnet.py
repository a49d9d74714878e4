"""The pre-activation CIFAR ResNet as a sequence of transitions and damped blocks, which the caller makes."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int
from dampode.block import DampedBlock, Transition
from dampode.fields import Autonomous, Branch, PreActBasic, PreActBottleneck
from dampode.models.image_parts import (
    CIFAR_MEAN,
    CIFAR_STD,
    MakeFlow,
    Normalize,
    initialize_convolutions,
    require_image_sizes,
    three_stages,
)

__all__ = ["MakeEntry", "NetworkOptions", "PreResNet", "branch_of", "layers"]

MakeEntry = Callable[[nn.Module, nn.Module], nn.Module]
"""Makes a stage's first layer out of its branch and the shortcut that fits it."""


class NetworkOptions(TypedDict, total=False):
    """The keyword arguments that every pre-activation network takes; `PreResNet` documents them."""

    block: Branch | None
    damp_first: bool
    width: int
    in_channels: int
    mean: Sequence[float]
    std: Sequence[float]


class PreResNet(nn.Module):
    """A stem, three stages of n blocks, a linear classifier: images (N, C, H, W) in [0, 1] -> logits (N, classes).

    Every stage begins with an undamped entry and continues with n − 1 damped blocks. So 3(n − 1) of the 3n are damped.
    An entry projects its input if the width or the image size changes. No normalization or ReLU follows the stem. The
    network ends in BN, ReLU, average pooling and a linear layer. Convolutions start from N(0, 2 / (k² C_out)).

    Args:
        depth: number of weighted layers: 6n + 2 with basic blocks, 9n + 2 with bottlenecks.
        num_classes: at least 2.
        flow: makes a shape-preserving layer out of a branch and its channels.
        entry: makes a stage's first layer out of its branch and shortcut; `Transition` adds them.
        block: the branch's class. None takes bottlenecks from depth 164 on, else basic blocks; if only one of the two
            fits the depth, it takes that one.
        damp_first: whether an entry that keeps the shape is damped too. Only the first entry of a network of basic
            blocks keeps the shape. A projection is never damped: a factor on it would only scale its weights.
        width: channels of the first stage's 3x3 convolutions; the other stages have 2x and 4x.
        in_channels: C of the images.
        mean, std: normalization, one number per channel.

    Raises:
        ValueError: no n gives the depth (the error names the nearest depths that fit), or a size is too small.

    Source: He et al. 2016, Identity mappings in deep residual networks; Yang et al. 2020, Sec. 4.1.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        flow: MakeFlow,
        entry: MakeEntry = Transition,
        *,
        block: Branch | None = None,
        damp_first: bool = False,
        width: int = 16,
        in_channels: int = 3,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
    ) -> None:
        super().__init__()
        require_positive_int(depth, "depth")
        require_instance(damp_first, bool, "damp_first")
        require_image_sizes(num_classes, width, in_channels, mean)
        branch, n = _branch_and_blocks(depth, block)

        def first(before: int, after: int, stride: int) -> nn.Module:
            f, shortcut = branch(before, after, stride), _projection(before, after, stride)
            return flow(f, after) if damp_first and isinstance(shortcut, nn.Identity) else entry(f, shortcut)

        def rest(channels: int) -> nn.Module:
            return flow(branch(channels, channels), channels)

        channels = branch.expansion * width
        self.normalize = Normalize(mean, std)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stages = three_stages(width, channels, n, first, rest)
        self.norm = nn.BatchNorm2d(4 * channels)
        self.classifier = nn.Linear(4 * channels, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        return self.logits(self.stages(self.stem(self.normalize(x))))

    def logits(self, state: Tensor) -> Tensor:
        """Logits (N, num_classes) of a final state (N, C of the last stage, H, W)."""
        pooled = torch.relu(self.norm(state)).mean((-2, -1))  # (N, C of the last stage)
        logits: Tensor = self.classifier(pooled)
        return logits


def layers(model: PreResNet) -> Iterator[tuple[str, nn.Sequential, int, nn.Module]]:
    """Every entry and block in order, as (name, stage, index in the stage, layer). The caller may replace a layer."""
    for name, stage in model.stages.named_children():
        assert isinstance(stage, nn.Sequential)
        for index, layer in enumerate(list(stage.children())):
            yield f"stages.{name}.{index}", stage, index, layer


def branch_of(block: DampedBlock, name: str) -> nn.Sequential:
    """The residual branch of a damped block.

    Args:
        block: the damped block.
        name: what an error calls the damped block.

    Raises:
        TypeError: its f depends on time or is not a Sequential.
    """
    f = block.func.f.f if isinstance(block.func.f, Autonomous) else block.func.f
    require_instance(f, nn.Sequential, f"f of {name}", "take a branch from dampode.fields")
    assert isinstance(f, nn.Sequential)
    return f


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut of a stage entry: BN, ReLU, conv1x1 (stride), or the identity if width and image size stay."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
    )


def _branch_and_blocks(depth: int, block: Branch | None) -> tuple[Branch, int]:
    """The branch's class and the number n of blocks per stage that give a depth.

    Args:
        depth: number of weighted layers, 3 n convolutions + 2.
        block: the class asked for; None chooses by depth.

    Returns:
        The class, and n >= 1.

    Raises:
        ValueError: no n >= 1 gives the depth.
        TypeError: block is not a class.
    """
    if block is not None:
        require_instance(block, type, "block", "pass a class such as fields.PreActBottleneck")
    candidates: list[Branch] = [block] if block is not None else [PreActBasic, PreActBottleneck]
    fitting = [branch for branch in candidates if _fits(depth, branch)]
    if not fitting:
        below = [d for d in range(depth - 1, 0, -1) if any(_fits(d, b) for b in candidates)][:1]
        above = next(d for d in range(depth + 1, depth + 10**6) if any(_fits(d, b) for b in candidates))
        rule = " or ".join(f"{3 * b.convolutions}n + 2" for b in candidates)
        nearest = f"nearest are {below[0]} and {above}" if below else f"smallest is {above}"
        raise ValueError(f"depth must be {rule} with n >= 1, got {depth}; the {nearest}")
    branch = fitting[-1] if depth >= 164 else fitting[0]
    return branch, (depth - 2) // (3 * branch.convolutions)


def _fits(depth: int, branch: Branch) -> bool:
    """Whether depth = 3 n convolutions + 2 for an n >= 1."""
    return depth > 2 and (depth - 2) % (3 * branch.convolutions) == 0
