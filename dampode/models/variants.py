"""The paper's networks by name: each one composition of branch, damping, weight function and integrator."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from dampode._checks import require_positive_int, require_real
from dampode.block import DampedBlock
from dampode.damping import Constant, Damping, Gated, Learned
from dampode.fields import Branch
from dampode.models.image_parts import CIFAR_MEAN, CIFAR_STD, MakeFlow
from dampode.models.preresnet import PreResNet
from dampode.models.resnext import ResNeXt29
from dampode.weighting import Weighting, one_plus, unit


def damped(damping: Callable[[int], Damping], rho: Weighting = unit) -> MakeFlow:
    """Flows of one linearized step: (1 − λ) x + ρ(λ) f(x). ``damping`` makes a new λ for the channels of a state."""

    def flow(f: nn.Module, channels: int) -> nn.Module:
        return DampedBlock(f, damping(channels), rho)

    return flow


def start_range(depth: int, low: float | None, high: float | None) -> tuple[float, float]:
    """The range of λ at the start: as given, else the paper's U[0.2, 0.25], U[0.1, 0.2] from depth 164 on (Sec. 4.1).

    Raises:
        ValueError, TypeError: one bound is given without the other, or depth is no positive int.
    """
    require_positive_int(depth, "depth")
    if low is not None and high is not None:
        return low, high
    if low is not None or high is not None:
        raise ValueError(f"give both low and high or neither, got low={low}, high={high}")
    return (0.1, 0.2) if depth >= 164 else (0.2, 0.25)


def logit(lam: float, name: str) -> float:
    """The z with sigmoid(z) = lam; a ValueError unless 0 < lam < 1."""
    require_real(lam, name)
    if not 0 < lam < 1:
        raise ValueError(f"{name} of a sigmoid λ must lie in (0, 1), got {lam}")
    return math.log(lam / (1 - lam))


def resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> PreResNet:
    """The pre-activation ResNet: λ = 0 in every flow, x + f(x), Eq. 3. Arguments as in `PreResNet`."""
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Constant(0.0)),
        block=block,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 1.0,
    damp_first: bool = False,
) -> PreResNet:
    """In-ResNet: (1 − λ_n) x + f(x), Eq. 13, λ_n = relu(anchor + raw_n), one a flow. Arguments as in `PreResNet`.

    λ_n ~ U[low, high] at the start, by default U[0.2, 0.25] and from depth 164 on U[0.1, 0.2] (Sec. 4.1); weight decay
    pulls λ_n to the anchor, 1 in the authors' code.
    """
    low, high = start_range(depth, low, high)
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Learned(low, high, anchor=anchor)),
        block=block,
        damp_first=damp_first,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def lambda_in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 0.0,
    damp_first: bool = False,
) -> PreResNet:
    """λ-In-ResNet: (1 − λ_n) x + (1 + λ_n) f(x), Eq. 15, f evaluated once. Arguments as in `in_resnet`.

    Weight decay pulls λ_n to 0, as in the authors' code.
    """
    low, high = start_range(depth, low, high)
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Learned(low, high, anchor=anchor), one_plus),
        block=block,
        damp_first=damp_first,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def in_resnet_sig(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 0.5,
    damp_first: bool = False,
) -> PreResNet:
    """In-ResNet-sig: λ_n = sigmoid(anchor + raw_n), so that 0 < λ_n < 1, Eq. 21. Arguments as in `in_resnet`.

    low, high and anchor are values of λ_n, in (0, 1); at the start the logit of λ_n is uniform between theirs.
    """
    low, high = start_range(depth, low, high)
    bounds = logit(low, "low"), logit(high, "high")
    pull = logit(anchor, "anchor")
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Learned(*bounds, act=torch.sigmoid, anchor=pull)),
        block=block,
        damp_first=damp_first,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def in_resnet_gating(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float | None = None,
    high: float | None = None,
    pooled: bool = False,
    damp_first: bool = False,
) -> PreResNet:
    """In-ResNet-gating: λ_n(x) = relu(W_n x + b_n), W_n a 1x1 convolution, Eq. 21. Arguments as in `in_resnet`.

    W_n starts at 0 and b_n in U[low, high], so that the network starts as an In-ResNet with one λ a channel. ``pooled``
    lets the gate read the state's mean over positions (`Gated`).
    """
    start = start_range(depth, low, high)
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Gated(channels, torch.relu, pooled, start)),
        block=block,
        damp_first=damp_first,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def in_resnet_gating_sig(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float | None = None,
    high: float | None = None,
    pooled: bool = False,
    damp_first: bool = False,
) -> PreResNet:
    """In-ResNet-gating-sig: λ_n(x) = sigmoid(W_n x + b_n), Eq. 21; the shortcut-only gate of He et al. 2016.

    Arguments as in `in_resnet_gating`; low and high are values of λ, in (0, 1).
    """
    low, high = start_range(depth, low, high)
    start = logit(low, "low"), logit(high, "high")
    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Gated(channels, torch.sigmoid, pooled, start)),
        block=block,
        damp_first=damp_first,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def cnn(
    depth: int = 110,
    num_classes: int = 10,
    *,
    block: Branch | None = None,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> PreResNet:
    """The non-residual CNN: λ = 1 in every flow, f(x), and stage entries without a shortcut, Sec. 3.3.

    Arguments as in `PreResNet`.
    """

    def entry(f: nn.Module, shortcut: nn.Module) -> nn.Module:
        return f

    return PreResNet(
        depth,
        num_classes,
        damped(lambda channels: Constant(1.0)),
        entry,
        block=block,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def resnext29(
    num_classes: int = 10,
    *,
    cardinality: int = 8,
    width: int = 64,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> ResNeXt29:
    """ResNeXt-29 8x64d: relu(x + f(x)), Eq. 3. Arguments as in `ResNeXt29`."""
    return ResNeXt29(
        num_classes,
        damped(lambda channels: Constant(0.0)),
        cardinality=cardinality,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def in_resnext29(
    num_classes: int = 10,
    *,
    cardinality: int = 8,
    width: int = 64,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 1.0,
) -> ResNeXt29:
    """In-ResNeXt-29: relu((1 − λ_n) x + f(x)), Eq. 13, λ_n = relu(anchor + raw_n).

    Arguments as in `ResNeXt29`, and low, high and anchor as in `in_resnet`.
    """
    return ResNeXt29(
        num_classes,
        damped(lambda channels: Learned(low, high, anchor=anchor)),
        cardinality=cardinality,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )


def lambda_in_resnext29(
    num_classes: int = 10,
    *,
    cardinality: int = 8,
    width: int = 64,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 0.0,
) -> ResNeXt29:
    """λ-In-ResNeXt-29: relu((1 − λ_n) x + (1 + λ_n) f(x)), Eq. 15. Arguments as in `in_resnext29`."""
    return ResNeXt29(
        num_classes,
        damped(lambda channels: Learned(low, high, anchor=anchor), one_plus),
        cardinality=cardinality,
        width=width,
        in_channels=in_channels,
        mean=mean,
        std=std,
    )
