"""How fast perturbations grow along a trajectory: Lyapunov exponents in time, and finite-time ones through layers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dampode._checks import require_instance, require_nonnegative, require_positive, require_positive_int, require_real
from dampode.block import DampedBlock
from dampode.damping import Constant
from dampode.dynamics import DampedODEFunc
from dampode.integrators import IntegrationError, Integrator, TorchDiffEq
from dampode.stability.linear import ConvergenceError, Field, require_eval, require_sample


@torch.inference_mode(False)  # where a tangent would be 0
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

    k tangent vectors go along by jvp through the integrator's own step, as one batch; after every dt they are made
    orthonormal by QR, and an exponent is the mean of log |R_ii| / dt. What is measured is the discrete flow's exponent,
    which is the differential equation's up to the step's error. The mean converges like (t1 − t0)^-1/2 on a chaotic
    trajectory.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x0: one sample, (1, *S), D numbers.
        t1: time at the end.
        k: how many, at most D.
        dt: time between two QR decompositions, and the integrator's interval.
        t0: time at the start.
        settle: time after t0 that is left out of the mean, for the trajectory and the tangents to settle.
        integrator: what a step is.
        seed: seed of the first tangents.

    Returns:
        (k,) descending; detached and on the CPU.

    Raises:
        ValueError: x0 is a batch or not finite, k > D, t1 <= t0 + settle, or batch norm or dropout trains.
        TypeError: integrator is no `Integrator`, or x0 no floating tensor.
        ConvergenceError: the trajectory leaves the finite numbers, a step of the integrator fails, or a tangent
            becomes 0; ``best`` holds the exponents up to there, None where no step counted yet.

    Source: Benettin, Galgani, Giorgilli & Strelcyn 1980.
    """
    require_sample(x0, "x0")
    require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
    for name, value in (("t0", t0), ("t1", t1)):
        require_real(value, name)
    require_positive(dt, "dt")
    require_nonnegative(settle, "settle")
    _require_count(k, x0.numel())
    if not t1 > t0 + settle:
        raise ValueError(f"t1 must be above t0 + settle, got t1 = {t1:g}, t0 = {t0:g}, settle = {settle:g}")
    damped = func if isinstance(func, DampedODEFunc) else DampedODEFunc(func, Constant(0.0))
    require_eval(damped)

    steps = max(round((t1 - t0) / dt), 1)
    h, unused = (t1 - t0) / steps, min(round(settle * steps / (t1 - t0)), steps - 1)  # one step counts at least
    x, tangents = x0.detach().clone(), _orthonormal(k, x0, seed)
    total, counted = torch.zeros(k, dtype=torch.float64), 0

    def mean() -> Tensor:
        return (total / (counted * h)).sort(descending=True).values

    for n in range(steps):
        now = t0 + n * h

        def advance(y: Tensor, now: float = now) -> Tensor:
            return integrator(damped, y, now, now + h)

        states = x.repeat(k, *[1] * (x.ndim - 1))
        best = mean() if counted else None
        try:
            moved, carried = torch.autograd.functional.jvp(advance, states, tangents)
        except IntegrationError as error:
            raise ConvergenceError(
                f"every step must end, the one from t = {now:g} to {now + h:g} did not: {error}; take a smaller dt or "
                "another integrator (the exponents up to there are in this error's best)",
                best,
            ) from error
        tangents, stretched = _reorthonormalize(carried)
        x = moved[:1]
        if bool(torch.isfinite(x).all()) and bool((stretched == -torch.inf).any()):
            raise ConvergenceError(
                f"a tangent's growth must be above 0 to have a logarithm, a step makes it 0 at t = {now + h:g}: the "
                "step maps a direction to one point, or its backward pass is not differentiable; take another dt, and "
                "TorchDiffEq with adjoint=False (the exponents up to there are in this error's best)",
                best,
            )
        if not bool(torch.isfinite(x).all() & torch.isfinite(stretched).all()):
            raise ConvergenceError(
                f"the trajectory must stay finite, it left the finite numbers at t = {now + h:g}; take a smaller dt or "
                "another integrator (the exponents up to there are in this error's best)",
                best,
            )
        if n >= unused:
            total, counted = total + stretched, counted + 1
    return mean()


class LayerExponents(NamedTuple):
    """Finite-time exponents of a network at one input."""

    names: tuple[str, ...]
    """The flows, in the order they run."""
    exponents: Tensor
    """log |R_ii| of each flow, (L, k): what one unit of depth time does to k perturbations that come from the input."""
    through: Tensor
    """Sum of log |R_ii| from the input to the last flow's output, what lies between the flows included, (k,)."""


@torch.inference_mode(False)
def layer_exponents(model: nn.Module, x: Tensor, k: int = 1, *, seed: int = 0) -> LayerExponents:
    """Finite-time Lyapunov exponents along a network's flows: tangents from the input, by jvp with QR at each flow.

    Args:
        model: a network with `DampedBlock` layers, in eval mode.
        x: one input, (1, *S).
        k: how many perturbations, at most the size of the input and of every flow's state.
        seed: seed of the first perturbations.

    Returns:
        The flows' exponents and their sum through the network; detached and on the CPU.

    Raises:
        ValueError: x is a batch or not finite, k is too large, batch norm or dropout trains, no layer is a
            `DampedBlock`, or one has no forward-mode derivative, as with an adaptive `TorchDiffEq`.

    Source: Benettin et al. 1980, with layers for time steps.
    """
    require_sample(x)
    require_instance(model, nn.Module, "model")
    require_eval(model)
    _require_count(k, x.numel())
    names: list[str] = []
    rows: list[Tensor] = []
    through = torch.zeros(k, dtype=torch.float64)

    def renewed(state: Tensor) -> tuple[Tensor, Tensor]:
        primal, tangent = forward_ad.unpack_dual(state)
        _require_count(k, primal[0].numel())
        tangent, stretched = _reorthonormalize(torch.zeros_like(primal) if tangent is None else tangent)
        return forward_ad.make_dual(primal, tangent), stretched

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal through
        state, stretched = renewed(args[0])
        through = through + stretched
        return (state, *args[1:])

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            nonlocal through
            state, stretched = renewed(output)
            through = through + stretched
            names.append(name)
            rows.append(stretched)
            return state

        return hook

    flows = [(name, module) for name, module in model.named_modules() if isinstance(module, DampedBlock)]
    if not flows:
        raise ValueError("the model must have DampedBlock layers, got none; wrap its residual branches in DampedBlock")
    handles = [module.register_forward_pre_hook(before) for _, module in flows]
    handles += [module.register_forward_hook(after(name)) for name, module in flows]
    try:
        with torch.no_grad(), forward_ad.dual_level():
            model(forward_ad.make_dual(x.detach().expand(k, *x.shape[1:]).clone(), _orthonormal(k, x, seed)))
    except NotImplementedError as error:
        raise ValueError(
            f"every layer must pass forward-mode derivatives on, got one that does not ({error}); for an adaptive "
            'TorchDiffEq take AdaptiveExponential, KenCarp4, or a fixed step as of TorchDiffEq("rk4")'
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return LayerExponents(tuple(names), torch.stack(rows), through)


def _require_count(k: int, d: int) -> None:
    """Raise unless 1 <= k <= d."""
    require_positive_int(k, "k")
    if k > d:
        raise ValueError(f"k must be at most the state's size, got k = {k} for {d} numbers")


def _orthonormal(k: int, x: Tensor, seed: int) -> Tensor:
    """Random orthonormal tangents, (k, *S)."""
    draws = torch.randn(x.numel(), k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tangents, _ = _reorthonormalize(draws.T.reshape(k, *x.shape[1:]))
    return tangents.to(x)


def _reorthonormalize(tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal tangents of the same spans, (k, *S), and log |R_ii|, (k,) in float64 on the CPU."""
    q, r = torch.linalg.qr(tangents.flatten(1).T)
    renewed: Tensor = q.T.reshape(tangents.shape)
    return renewed, r.diagonal().abs().double().log().cpu()
