"""A network of contractive damped blocks, whose robustness can be certified."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dampode._checks import require_nonnegative, require_positive_int
from dampode.block import DampedBlock
from dampode.contractive import BoundedLinear, ConvolutionalPotential, DensePotential
from dampode.damping import Constant
from dampode.integrators import ExponentialEuler

__all__ = ["contractive_norm", "contractive_resnet"]


def contractive_norm(lam: float, h: float = 1.0) -> float:
    """The largest ‖W‖ with which an exponential Euler step on −λx − Wᵀ σ(W x + b) has the constant e^{−λh}.

    It solves h φ_1(−λh) ‖W‖² = 2 e^{−λh}; for λ = 0 and h = 1 it is √2.

    Args:
        lam: λ >= 0.
        h: step, > 0.
    """
    gain = -math.expm1(-lam * h) / lam if lam > 0 else h
    return math.sqrt(2 * math.exp(-lam * h) / gain)


def contractive_resnet(
    num_classes: int = 10,
    *,
    width: int = 32,
    blocks: int = 6,
    dense: int = 2,
    features: int = 256,
    size: tuple[int, int] = (32, 32),
    in_channels: int = 3,
    lam: float = 0.1,
    activation: Callable[[Tensor], Tensor] = torch.relu,
) -> nn.Sequential:
    """A classifier of pixels whose every layer has a known Lipschitz constant, for `stability.certify`.

    Pixels are rearranged to a quarter of the positions and four times the channels, which get zeros up to ``width``.
    Damped blocks x ← e^{−λ} x − φ_1(−λ) Wᵀ σ(W x + b) follow, each with the constant e^{−λ}. Half of them come before a
    mean over 2 x 2 positions. The rest is a linear layer to ``features`` numbers, dense damped blocks, and a linear
    classifier, where both linear layers have the constant 1.

    Args:
        num_classes: at least 2.
        width: channels of the state, at least 4 in_channels.
        blocks: number of convolutional damped blocks.
        dense: number of dense damped blocks.
        features: numbers of their state.
        size: (H, W) of the images, multiples of 4.
        in_channels: channels of the images.
        lam: λ >= 0 of every damped block.
        activation: σ, as in `dampode.contractive.ConvexPotential`.

    Raises:
        ValueError, TypeError: a size is out of range.

    Source: Meunier et al. 2022, for λ = 0.
    """
    for name, value in (("width", width), ("blocks", blocks), ("features", features), ("in_channels", in_channels)):
        require_positive_int(value, name)
    require_positive_int(num_classes, "num_classes")
    require_nonnegative(lam, "lam")
    if size[0] % 4 or size[1] % 4:
        raise ValueError(f"size must be multiples of 4, got {size}")
    if width < 4 * in_channels:
        raise ValueError(f"width must be at least 4 in_channels = {4 * in_channels}, got {width}")
    half, quarter = (size[0] // 2, size[1] // 2), (size[0] // 4, size[1] // 4)
    norm = contractive_norm(lam)

    def flow(f: nn.Module) -> DampedBlock:
        return DampedBlock(f, Constant(lam), integrator=ExponentialEuler())

    def convolutional(count: int, positions: tuple[int, int]) -> list[nn.Module]:
        kind = ConvolutionalPotential
        return [flow(kind(width, positions, norm=norm, activation=activation)) for _ in range(count)]

    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.ZeroPad3d((0, 0, 0, 0, 0, width - 4 * in_channels)),
        *convolutional(blocks - blocks // 2, half),
        nn.AvgPool2d(2),
        *convolutional(blocks // 2, quarter),
        nn.Flatten(),
        BoundedLinear(width * quarter[0] * quarter[1], features),
        *(flow(DensePotential(features, norm=norm, activation=activation)) for _ in range(dense)),
        BoundedLinear(features, num_classes),
    )
