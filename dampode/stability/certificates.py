"""Certified radii: Lipschitz constants of layers, composed to a bound that no attack can break."""

import copy
import math
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_labels, require_labels_below, require_state
from dampode.block import DampedBlock, EquilibriumBlock
from dampode.contractive import BoundedLinear, ConvexPotential, spectral_bound
from dampode.damping import Constant, Damping, Learned
from dampode.fields import Autonomous
from dampode.integrators import ExponentialEuler, LinearizedEuler
from dampode.weighting import Weighting

__all__ = ["certify", "lipschitz", "step_lipschitz"]


def step_lipschitz(kept: float, gain: float, norm: float) -> float:
    """The Lipschitz constant of x ← a x − c Wᵀ σ(W x + b): max(|a|, |a − c ‖W‖²|), for a slope of σ in [0, 1].

    Between two states the map is a I − c Wᵀ D W with a diagonal 0 <= D <= 1: symmetric, with eigenvalues between
    a − c ‖W‖² and a. For a step of the exponential Euler method a = e^{−λh}; the constant is then
    max(e^{−λh}, c ‖W‖² − e^{−λh}).

    Args:
        kept: a, the share of the state that is kept.
        gain: c >= 0, such as h φ_1(−λh) ρ.
        norm: an upper bound of ‖W‖.

    Source: Meunier et al. 2022, for a = 1.
    """
    return max(abs(kept), abs(kept - gain * norm**2))


@singledispatch
def lipschitz(layer: nn.Module) -> float:
    """An upper bound of the Lipschitz constant of a layer in the l2 norm, rounding of the bound included.

    It is known for `DampedBlock` and `EquilibriumBlock` with a `ConvexPotential` and a λ that is one number, for
    Sequential, Linear, Flatten, Identity, ReLU, PixelUnshuffle, padding with a constant, AvgPool2d without overlap and
    `BoundedLinear`. These are the layers of `models.contractive_resnet`. For another layer, give a function of its own
    to ``lipschitz.register(Kind)``.

    Args:
        layer: the layer.

    Returns:
        The bound.

    Raises:
        TypeError: no bound is known for this kind of layer.
        ValueError: none is known for its settings.
    """
    raise TypeError(
        f"a certificate needs layers with a known Lipschitz constant, got {type(layer).__name__}; take the layers of "
        "models.contractive_resnet, or give its constant by stability.lipschitz.register"
    )


@lipschitz.register(nn.Identity)
@lipschitz.register(nn.ConstantPad3d)
@lipschitz.register(nn.Flatten)
@lipschitz.register(nn.ReLU)
@lipschitz.register(nn.PixelUnshuffle)
def _one(layer: nn.Module) -> float:
    return 1.0


@lipschitz.register
def _sequential(layer: nn.Sequential) -> float:
    return math.prod(lipschitz(part) for part in layer)


@lipschitz.register
def _linear(layer: nn.Linear) -> float:
    return spectral_bound(layer.weight)


@lipschitz.register
def _bounded_linear(layer: BoundedLinear) -> float:
    return spectral_bound(layer.matrix())


@lipschitz.register
def _pooled(layer: nn.AvgPool2d) -> float:
    kernel = layer.kernel_size
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if layer.stride not in (kernel, (height, width)) or layer.padding not in (0, (0, 0)):
        raise ValueError("the constant of average pooling is known without overlap and padding; set stride=kernel_size")
    return 1 / math.sqrt(height * width)


@lipschitz.register
def _flow(layer: DampedBlock) -> float:
    """The constant of one step, to the power of the number of steps."""
    f, integrator = layer.func.f, layer.integrator
    potential = f.f if isinstance(f, Autonomous) else f
    require_instance(potential, ConvexPotential, "f of a certified DampedBlock", "take one of dampode.contractive")
    assert isinstance(potential, ConvexPotential)
    lam, weight = _damping_and_weight(layer.damping, layer.func.rho)
    if not isinstance(integrator, ExponentialEuler | LinearizedEuler):
        raise ValueError(
            f"the constant of a step is known for ExponentialEuler and LinearizedEuler, got {integrator}; other "
            "methods follow the flow, whose constant is e^{-λT}, only to their tolerance"
        )
    h = (layer.t_span[1] - layer.t_span[0]) / integrator.steps
    if isinstance(integrator, ExponentialEuler):
        kept, gain = math.exp(-lam * h), weight * (-math.expm1(-lam * h) / lam if lam > 0 else h)
    else:
        kept, gain = 1 - lam * h, weight * h
    step = step_lipschitz(kept, gain, potential.spectral_norm_bound())
    return (step * (1 + 1e-12)) ** integrator.steps


@lipschitz.register
def _equilibrium(layer: EquilibriumBlock) -> float:
    """ρ / λ: x* = (λ I + ρ ∇φ)⁻¹ ρ u with a monotone ∇φ."""
    require_instance(layer.f, ConvexPotential, "f of a certified EquilibriumBlock", "take one of dampode.contractive")
    lam, weight = _damping_and_weight(layer.damping, layer.rho)
    if lam == 0:
        raise ValueError("an equilibrium has a Lipschitz constant for λ > 0, got λ = 0; bound λ from below")
    return weight / lam * (1 + 1e-12)


def _damping_and_weight(damping: Damping, rho: Weighting) -> tuple[float, float]:
    """λ and ρ(λ) as numbers, in float64."""
    require_instance(damping, (Constant, Learned), "λ of a certified block", "λ must be a number, not a function")
    lam = damping(0.0, torch.zeros(1, 1, dtype=torch.float64)).detach().cpu()
    if lam.numel() != 1:
        raise ValueError(f"λ of a certified block must be one number, got shape {tuple(lam.shape)}")
    weight = float(torch.as_tensor(rho(lam)))
    if weight < 0:
        raise ValueError(f"ρ(λ) of a certified block must be at least 0, got {weight:g}")
    return float(lam), weight


@torch.no_grad()
def certify(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The l2 radius around every image within which no image has another class, proved by Lipschitz constants.

    All layers but the last are composed to features with the constant L. The last layer is linear with rows w_k, so the
    difference of two logits has the constant L ‖w_y − w_k‖. The radius is min_k (z_y − z_k) / (L ‖w_y − w_k‖), and 0
    for an image that is classified wrongly. The logits are computed in float64, and equilibria to 1e-10. Rounding of a
    float32 model can move its decision by about 1e-6, and an equilibrium block's tolerance by |−λx + ρ f| / λ.

    A factor that scales the features scales margin and constant alike, so it changes no radius.

    Args:
        model: a Sequential of layers with known constants (`lipschitz`), the last one Linear or BoundedLinear.
        x: images, (N, C, H, W).
        y: labels, (N,).

    Returns:
        Radii, (N,) float64, in the units of x.

    Raises:
        TypeError: a layer has no known constant, or the last one is not linear.
        ValueError: labels do not fit; the settings of a layer have no known constant.

    Source: Tsuzuku, Sato & Sugiyama 2018, Lipschitz-margin training.
    """
    require_instance(model, nn.Sequential, "model", "give its layers as nn.Sequential, the last one nn.Linear")
    require_state(x)
    require_labels(y, len(x))
    exact = copy.deepcopy(model).double().eval()
    for block in exact.modules():
        if isinstance(block, EquilibriumBlock):
            block.integrator = replace(block.integrator, rtol=1e-10, atol=1e-11, max_calls=10_000, strict=True)
    last = exact[-1]
    require_instance(last, (nn.Linear, BoundedLinear), "the last layer of a certified model")
    assert isinstance(last, nn.Linear | BoundedLinear)
    weight = last.matrix() if isinstance(last, BoundedLinear) else last.weight
    require_labels_below(y, len(weight))
    constant = math.prod(lipschitz(layer) for layer in exact[:-1])
    logits = exact(x.double())
    own = logits.gather(1, y[:, None])
    distance = torch.linalg.vector_norm(weight[y][:, None] - weight, dim=2)  # (N, classes)
    rounding = 1e-10 * logits.abs().amax(1, keepdim=True)
    radii = (own - logits - rounding) / (constant * distance)
    radii.scatter_(1, y[:, None], math.inf)
    least: Tensor = radii.amin(1)
    return least.clamp(min=0.0)
