"""How fast perturbations grow: Lyapunov exponents along a trajectory, and finite-time exponents through layers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dampode._checks import (
    as_seed,
    require_instance,
    require_nonnegative,
    require_positive,
    require_positive_int,
    require_real,
)
from dampode._precision import full_float32
from dampode.block import DampedBlock
from dampode.damping import Constant
from dampode.dynamics import DampedODEFunc
from dampode.integrators import IntegrationError, Integrator, TorchDiffEq
from dampode.stability.jacobian_operator import ConvergenceError, Field, require_eval, require_sample

__all__ = ["LayerExponents", "layer_exponents", "lyapunov_exponents"]


@full_float32()
@torch.inference_mode(False)  # in inference mode every tangent would be 0
def lyapunov_exponents(
    func: Field,
    x0: Tensor,
    t1: float,
    k: int = 1,
    dt: float = 0.01,
    *,
    t0: float = 0.0,
    settle: float = 0.0,
    integrator: Integrator = TorchDiffEq("rk4"),
    seed: int = 0,
) -> Tensor:
    """The k largest Lyapunov exponents of the trajectory from x0, by Benettin's method.

    The integrator's own steps carry k tangent vectors along by jvp, as one batch. After every dt a QR decomposition
    makes the tangents orthonormal again. An exponent is the mean of log |R_ii| / dt. It belongs to the discrete flow,
    and equals that of the differential equation up to the error of the steps. On a chaotic trajectory the mean
    converges like (t1 − t0)^-1/2.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x0: one sample, (1, *S), D numbers.
        t1: time at the end.
        k: number of exponents, at most D.
        dt: time between two QR decompositions; the integrator is called once for each interval.
        t0: time at the start.
        settle: time after t0 that the mean leaves out, so that the trajectory and the tangents can settle.
        integrator: takes the steps.
        seed: seed of the first tangents.

    Returns:
        (k,) descending; detached and on the CPU.

    Raises:
        ValueError: x0 is a batch or not finite, k > D, t1 <= t0 + settle, or batch norm or dropout trains.
        TypeError: integrator is not an `Integrator`, x0 not a floating tensor, or seed not an int.
        ConvergenceError: the trajectory leaves the finite numbers, a step of the integrator fails, or a tangent
            becomes 0. ``best`` holds the exponents up to that time, or None if no step counted yet.

    Source: Benettin, Galgani, Giorgilli & Strelcyn 1980.
    """
    require_sample(x0, "x0")
    require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
    for name, value in (("t0", t0), ("t1", t1)):
        require_real(value, name)
    require_positive(dt, "dt")
    require_nonnegative(settle, "settle")
    _require_count(k, x0.numel())
    seed = as_seed(seed)
    if not t1 > t0 + settle:
        raise ValueError(f"t1 must be above t0 + settle, got t1 = {t1:g}, t0 = {t0:g}, settle = {settle:g}")
    damped = func if isinstance(func, DampedODEFunc) else DampedODEFunc(func, Constant(0.0))
    require_eval(damped)

    steps = max(round((t1 - t0) / dt), 1)
    h, unused = (t1 - t0) / steps, min(round(settle * steps / (t1 - t0)), steps - 1)  # at least one step counts
    x, tangents = x0.detach().clone(), _orthonormal(k, x0, seed)
    total, counted = torch.zeros(k, dtype=torch.float64, device="cpu"), 0

    def mean() -> Tensor:
        return (total / (counted * h)).sort(descending=True).values

    for n in range(steps):
        best = mean() if counted else None
        x, tangents, stretched = _advance(damped, integrator, x, tangents, t0 + n * h, h, best)
        if n >= unused:
            total, counted = total + stretched, counted + 1
    return mean()


def _advance(
    func: DampedODEFunc, integrator: Integrator, x: Tensor, tangents: Tensor, t: float, h: float, best: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One interval of Benettin's method: the state and orthonormal tangents at t + h, and log |R_ii|, (k,).

    Raises:
        ConvergenceError: the integrator fails, a tangent becomes 0, or the state is not finite. It holds ``best``.
    """

    def advance(y: Tensor) -> Tensor:
        return integrator(func, y, t, t + h)

    states = x.repeat(len(tangents), *[1] * (x.ndim - 1))
    try:
        moved, carried = torch.autograd.functional.jvp(advance, states, tangents)
    except IntegrationError as error:
        raise ConvergenceError(
            f"every step must succeed, the step from t = {t:g} to {t + h:g} did not: {error}; take a smaller dt or "
            "another integrator (the exponents up to there are in this error's best)",
            best,
        ) from error
    tangents, stretched = _orthonormalize(carried)
    x = moved[:1]
    if bool(torch.isfinite(x).all()) and bool((stretched == -torch.inf).any()):
        raise ConvergenceError(
            f"a tangent's growth must be above 0 to have a logarithm, a step makes it 0 at t = {t + h:g}: the step "
            "maps a direction to one point, or its backward pass is not differentiable; take another dt, and "
            "TorchDiffEq with adjoint=False (the exponents up to there are in this error's best)",
            best,
        )
    if not bool(torch.isfinite(x).all() & torch.isfinite(stretched).all()):
        raise ConvergenceError(
            f"the trajectory must stay finite, it left the finite numbers at t = {t + h:g}; take a smaller dt or "
            "another integrator (the exponents up to there are in this error's best)",
            best,
        )
    return x, tangents, stretched


class LayerExponents(NamedTuple):
    """Finite-time exponents of a network at one input, for k perturbations that start orthonormal at the input."""

    names: tuple[str, ...]
    """The blocks, in the order they end."""
    exponents: Tensor
    """log |R_ii| of each block over its whole t_span, (L, k). The sum of the first j is the log of the factor by which
    the block multiplies the volume that the first j perturbations span."""
    through: Tensor
    """log |R_ii| from the input to the output of the block that ends last, (k,). It includes all layers in between."""


@full_float32()
@torch.inference_mode(False)
def layer_exponents(model: nn.Module, x: Tensor, k: int = 1, *, seed: int = 0) -> LayerExponents:
    """Finite-time Lyapunov exponents of a network's damped blocks: a jvp carries k tangents through the model.

    Let T = QR and J T = Q'R' be the QR decompositions of the tangents before and after a block. Then R' R⁻¹ is the R
    factor of J Q, and gives the block's exponents. The tangents themselves are not changed, so blocks may lie on
    parallel paths, under skips or inside one another. The tangents align on their way; a tangent that differs from the
    tangents before it by less than a thousand roundings is refused.

    Args:
        model: a network with `DampedBlock` layers, in eval mode.
        x: one input, (1, *S).
        k: number of perturbations, at most the size of the input and of every block's state.
        seed: seed of the first perturbations.

    Returns:
        The blocks' exponents and those through the network; detached and on the CPU.

    Raises:
        ValueError: x is a batch or not finite, k is too large, batch norm or dropout trains, no layer is a
            `DampedBlock`, a block's state has another batch size than the input, or a layer has no forward-mode
            derivative, as with an adaptive `TorchDiffEq`.
        TypeError: model is not a module, x not a floating tensor, or seed not an int.
        ConvergenceError: the perturbations at a block are not finite, or linearly dependent up to rounding.

    Source: Benettin et al. 1980, with layers for time steps.
    """
    require_sample(x)
    require_instance(model, nn.Module, "model")
    require_eval(model)
    _require_count(k, x.numel())
    flows = [(name, module) for name, module in model.named_modules() if isinstance(module, DampedBlock)]
    if not flows:
        raise ValueError("the model must have DampedBlock layers, got none; wrap its residual branches in DampedBlock")
    tangents = _orthonormal(k, x, as_seed(seed))
    names: list[str] = []
    rows: list[Tensor] = []
    through = torch.zeros(k, dtype=torch.float64, device="cpu")

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal through
            before, through = (_extents(state, k, name) for state in (args[0], output))
            names.append(name)
            rows.append(through - before)

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in flows]
    try:
        with torch.no_grad(), forward_ad.dual_level():
            model(forward_ad.make_dual(x.detach().expand(k, *x.shape[1:]).clone(), tangents))
    except NotImplementedError as error:
        raise ValueError(
            f"every layer must have a forward-mode derivative, a layer has none ({error}); in place of an adaptive "
            'TorchDiffEq take ExponentialAdams, KenCarp4, or fixed steps as in TorchDiffEq("rk4")'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return LayerExponents(tuple(names), torch.stack(rows), through)


def _extents(state: Tensor, k: int, name: str) -> Tensor:
    """Log |R_ii| of the k tangents that a state carries, (k,)."""
    primal, tangent = forward_ad.unpack_dual(state)
    if len(primal) != k:
        raise ValueError(f"every block must keep the batch, got {len(primal)} samples for {k} at block {name!r}")
    _require_count(k, primal[0].numel())
    tangents = torch.zeros_like(primal) if tangent is None else tangent
    _, extents = _orthonormalize(tangents)
    lengths = tangents.flatten(1).norm(dim=1).double().log().cpu()
    if not bool((extents > lengths + math.log(1e3 * torch.finfo(primal.dtype).eps)).all()):
        raise ConvergenceError(
            f"the k = {k} perturbations must stay finite and linearly independent, at block {name!r} they do not, up "
            "to rounding: take a smaller k, or model and x in float64"
        )
    return extents


def _require_count(k: int, d: int) -> None:
    """Raise unless 1 <= k <= d."""
    require_positive_int(k, "k")
    if k > d:
        raise ValueError(f"k must be at most the state's size, got k = {k} for {d} numbers")


def _orthonormal(k: int, x: Tensor, seed: int) -> Tensor:
    """Random orthonormal tangents, (k, *S)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    draws = torch.randn(x.numel(), k, generator=generator, dtype=torch.float64, device="cpu")
    tangents, _ = _orthonormalize(draws.T.reshape(k, *x.shape[1:]))
    return tangents.to(x)


def _orthonormalize(tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal tangents with the same spans, (k, *S), and log |R_ii|, (k,) in float64 on the CPU."""
    q, r = torch.linalg.qr(tangents.flatten(1).T)
    renewed: Tensor = q.T.reshape(tangents.shape)
    return renewed, r.diagonal().abs().double().log().cpu()
