"""The paper's networks by name. Each is one composition of branch, damping, weight function and integrator."""

import math
from collections.abc import Callable
from typing import Unpack

import torch
from torch import nn

from dampode._checks import require_positive_int, require_real
from dampode.block import DampedBlock
from dampode.damping import Constant, Damping, Gated, Learned
from dampode.models.image_parts import MakeFlow
from dampode.models.preresnet import NetworkOptions, PreResNet
from dampode.models.resnext import ResNeXt29, ResNeXtOptions
from dampode.weighting import Weighting, one_plus, unit

__all__ = [
    "cnn",
    "in_resnet",
    "in_resnet_gating",
    "in_resnet_gating_sig",
    "in_resnet_sig",
    "in_resnext29",
    "lambda_in_resnet",
    "lambda_in_resnext29",
    "resnet",
    "resnext29",
]


def resnet(depth: int = 110, num_classes: int = 10, **options: Unpack[NetworkOptions]) -> PreResNet:
    """The pre-activation ResNet, Eq. 3: x + f(x), so λ = 0 in every damped block. Arguments as in `PreResNet`."""
    return PreResNet(depth, num_classes, _damped(lambda channels: Constant(0.0)), **options)


def cnn(depth: int = 110, num_classes: int = 10, **options: Unpack[NetworkOptions]) -> PreResNet:
    """The CNN without shortcuts, Sec. 3.3: f(x), so λ = 1 in every damped block. Arguments as in `PreResNet`.

    The first layer of a stage has no shortcut either.
    """

    def without_shortcut(f: nn.Module, shortcut: nn.Module) -> nn.Module:
        return f

    return PreResNet(depth, num_classes, _damped(lambda channels: Constant(1.0)), without_shortcut, **options)


def in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 0.0,
    **options: Unpack[NetworkOptions],
) -> PreResNet:
    """In-ResNet, Eq. 13: (1 − λ_n) x + f(x) with λ_n = relu(anchor + raw_n), one λ_n per damped block.

    Args:
        depth: number of weighted layers, as in `PreResNet`.
        num_classes: at least 2.
        low: the smallest λ_n at the start; None: 0.2, and 0.1 from depth 164 on (Sec. 4.1).
        high: the largest λ_n at the start; None: 0.25, and 0.2 from depth 164 on.
        anchor: the value that weight decay pulls λ_n to. 0 decays λ_n itself, the parameter that the paper prints; 1 is
            the authors' code, which stores 1 − λ_n.
        **options: the other arguments of `PreResNet`.

    Raises:
        ValueError, TypeError: as `PreResNet` and `Learned`, or only one of low and high is given.
    """
    low, high = _start_range(depth, low, high)
    return PreResNet(depth, num_classes, _damped(lambda channels: Learned(low, high, anchor=anchor)), **options)


def lambda_in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 0.0,
    **options: Unpack[NetworkOptions],
) -> PreResNet:
    """λ-In-ResNet, Eq. 15: (1 − λ_n) x + (1 + λ_n) f(x), with one evaluation of f. Arguments as in `in_resnet`.

    The authors' code has anchor 0 too.
    """
    low, high = _start_range(depth, low, high)
    flow = _damped(lambda channels: Learned(low, high, anchor=anchor), one_plus)
    return PreResNet(depth, num_classes, flow, **options)


def in_resnet_sig(
    depth: int = 110,
    num_classes: int = 10,
    *,
    low: float | None = None,
    high: float | None = None,
    anchor: float = 0.5,
    **options: Unpack[NetworkOptions],
) -> PreResNet:
    """In-ResNet-sig, Eq. 21: λ_n = sigmoid(z_n), so that 0 < λ_n < 1. Arguments as in `in_resnet`.

    low, high and anchor are values of λ_n, in (0, 1). At the start z_n is uniform between the logits of low and high.
    The default anchor is 0.5, since weight decay on z_n pulls λ_n to sigmoid(0).
    """
    low, high = _start_range(depth, low, high)
    bounds, pull = (_logit(low, "low"), _logit(high, "high")), _logit(anchor, "anchor")
    flow = _damped(lambda channels: Learned(*bounds, act=torch.sigmoid, anchor=pull))
    return PreResNet(depth, num_classes, flow, **options)


def in_resnet_gating(
    depth: int = 110,
    num_classes: int = 10,
    *,
    low: float | None = None,
    high: float | None = None,
    pooled: bool = False,
    **options: Unpack[NetworkOptions],
) -> PreResNet:
    """In-ResNet-gating, Eq. 21: λ_n(x) = relu(W_n x + b_n), W_n a 1x1 convolution. Arguments as in `in_resnet`.

    W_n starts at 0 and b_n in U[low, high], so the network starts as an In-ResNet with one λ per channel. With
    ``pooled`` the gate reads the state's mean over positions (`Gated`).
    """
    start = _start_range(depth, low, high)
    flow = _damped(lambda channels: Gated(channels, torch.relu, pooled, start))
    return PreResNet(depth, num_classes, flow, **options)


def in_resnet_gating_sig(
    depth: int = 110,
    num_classes: int = 10,
    *,
    low: float | None = None,
    high: float | None = None,
    pooled: bool = False,
    **options: Unpack[NetworkOptions],
) -> PreResNet:
    """In-ResNet-gating-sig, Eq. 21: λ_n(x) = sigmoid(W_n x + b_n), the shortcut-only gate of He et al. 2016.

    Arguments as in `in_resnet_gating`; low and high are values of λ, in (0, 1).
    """
    low, high = _start_range(depth, low, high)
    start = _logit(low, "low"), _logit(high, "high")
    flow = _damped(lambda channels: Gated(channels, torch.sigmoid, pooled, start))
    return PreResNet(depth, num_classes, flow, **options)


def resnext29(num_classes: int = 10, **options: Unpack[ResNeXtOptions]) -> ResNeXt29:
    """ResNeXt-29 8x64d, Eq. 3: relu(x + f(x)). Arguments as in `ResNeXt29`."""
    return ResNeXt29(num_classes, _damped(lambda channels: Constant(0.0)), **options)


def in_resnext29(
    num_classes: int = 10,
    *,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 0.0,
    **options: Unpack[ResNeXtOptions],
) -> ResNeXt29:
    """In-ResNeXt-29, Eq. 13: relu((1 − λ_n) x + f(x)) with λ_n = relu(anchor + raw_n).

    Arguments as in `ResNeXt29`; low, high and anchor as in `in_resnet`.
    """
    return ResNeXt29(num_classes, _damped(lambda channels: Learned(low, high, anchor=anchor)), **options)


def lambda_in_resnext29(
    num_classes: int = 10,
    *,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 0.0,
    **options: Unpack[ResNeXtOptions],
) -> ResNeXt29:
    """λ-In-ResNeXt-29, Eq. 15: relu((1 − λ_n) x + (1 + λ_n) f(x)). Arguments as in `in_resnext29`."""
    return ResNeXt29(num_classes, _damped(lambda channels: Learned(low, high, anchor=anchor), one_plus), **options)


def _damped(damping: Callable[[int], Damping], rho: Weighting = unit) -> MakeFlow:
    """Blocks of one linearized step, (1 − λ) x + ρ(λ) f(x). ``damping`` makes the λ of a state, given its channels."""

    def flow(f: nn.Module, channels: int) -> nn.Module:
        return DampedBlock(f, damping(channels), rho)

    return flow


def _start_range(depth: int, low: float | None, high: float | None) -> tuple[float, float]:
    """The range of λ at the start: as given, else the paper's, U[0.2, 0.25] or, from depth 164 on, U[0.1, 0.2].

    Raises:
        ValueError, TypeError: only one bound is given, or depth is not a positive int.
    """
    require_positive_int(depth, "depth")
    if low is not None and high is not None:
        return low, high
    if low is not None or high is not None:
        raise ValueError(f"give both low and high or neither, got low={low}, high={high}")
    return (0.1, 0.2) if depth >= 164 else (0.2, 0.25)


def _logit(lam: float, name: str) -> float:
    """The z with sigmoid(z) = lam; a ValueError unless 0 < lam < 1."""
    require_real(lam, name)
    if not 0 < lam < 1:
        raise ValueError(f"{name} of a sigmoid λ must lie in (0, 1), got {lam}")
    return math.log(lam / (1 - lam))
