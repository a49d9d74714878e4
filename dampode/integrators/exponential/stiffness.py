"""Where f is too stiff for an explicit exponential method: creeping states, and the measured ratio ρ|J|/λ."""

import warnings

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.exponential_rk import KrogstadStep
from dampode.integrators.sample_times import first_times
from dampode.integrators.solution import Solution
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.integrators.tolerance import Tolerance

__all__ = ["field_to_damping_ratio", "is_creeping", "warn_if_errors_add_up", "warn_if_stiff"]

_LARGEST_CREPT_ERROR = 10.0
"""In tolerances: where the estimated errors of creeping steps add up to more, a solve warns."""

_RATIO_AT_REST = 0.9
"""Where ρ|J| is more than this beside λ and 1/h, gradients may grow from step to step."""

_FEEDBACK, _DAMPED, _MOVED = 0.3, 0.1, 0.05
"""The bounds of `is_creeping`."""


def is_creeping(
    step: KrogstadStep, x: Tensor, n5: Tensor, lam: Tensor, length: Tensor, size: Tensor, tol: Tolerance
) -> Tensor:
    """Whether λ and ρ f nearly cancel in a step, so that the state hardly moves.

    Then no damping need be left in some directions, such as one in which a conserved sum changes. The tolerance allows
    an error per step there that is large beside the movement, and the errors of many steps add up. A state creeps if

    - ρ f undoes the damping: hφ_1 |N_5 − N_4| > 0.3 |x⁺ − U_4|;
    - damping matters: hφ_1 λ is above 0.1 along x⁺ − U_4;
    - the state moves by less than 5 % of its size.

    Args:
        step: the step.
        x: the state at its start, (N, *S).
        n5: N(x⁺, t+h), (N, *S).
        lam: λ_n, broadcast to x.
        length: the length of the step, (N, 1, ..., 1), in x's dtype.
        size: |x|, (N, *S).
        tol: tolerance of a step. Its norm measures all changes.

    Returns:
        Whether the state of each sample creeps, (N, 1, ..., 1).
    """
    apart, weight = step.x - step.u4, length * step.p1
    distance = tol.ratio(apart, size)
    feedback, damped = tol.ratio(weight * (n5 - step.n4), size), tol.ratio(weight * lam * apart, size)
    moved, reach = tol.ratio(step.x - x, size), tol.ratio(size, size)
    return (feedback > _FEEDBACK * distance) & (damped > _DAMPED * distance) & (moved < _MOVED * reach)


@torch.no_grad()
def field_to_damping_ratio(func: DampedODEFunc, x: Tensor, t: Tensor, iterations: int = 6) -> Tensor:
    """The ratio ρ|J|/λ of every sample, with J = ∂f/∂x: the stiffness of the nonlinear part beside the damping.

    Args:
        func: the damped vector field.
        x: states, (N, *S).
        t: their times, (N, 1, ..., 1).
        iterations: iterations of the power method on difference quotients of f. Each calls f once. They bound |J| from
            below.

    Returns:
        The smallest ratio over each sample's λ, (N,); infinity where λ is 0.
    """
    lam, weight, _ = func.parts(t, x)
    return _smallest_share((weight / lam).abs(), x) * _jacobian_norm(func, x, t, iterations)


def _jacobian_norm(func: DampedODEFunc, x: Tensor, t: Tensor, iterations: int) -> Tensor:
    """|J| of every sample from below, (N,)."""
    fx = func.f(t, x)
    reach = torch.finfo(x.dtype).eps ** 0.5 * (1 + _norm(x))
    v = torch.ones_like(x) * torch.linspace(1, 2, x[0].numel(), dtype=x.dtype, device=x.device).reshape(x.shape[1:])
    gain = torch.zeros_like(reach)
    for _ in range(iterations):
        v = v / _norm(v).clamp(min=torch.finfo(x.dtype).tiny)
        v = (func.f(t, x + reach * v) - fx) / reach
        gain = _norm(v)
    return gain.reshape(-1)


def _smallest_share(share: Tensor, x: Tensor) -> Tensor:
    """The smallest number of every sample, (N,)."""
    smallest: Tensor = share.expand_as(x).reshape(len(x), -1).amin(1)
    return smallest


def _at_rest(solution: Solution) -> Tensor:
    """Which samples never move while their gradients are wanted, (N,)."""
    x = solution.x.detach()
    still = (x == x[0]).reshape(*x.shape[:2], -1).all(2).all(0)
    return still & (solution.accepted > 0) & solution.x.requires_grad


@torch.no_grad()
def _warn_of_rest(func: DampedODEFunc, solution: Solution, resting: Tensor) -> bool:
    """Warn if gradients pass through samples at rest in steps beyond stability. Returns whether it warned.

    The errors of such steps are 0, so they grow to any length.
    """
    x = solution.x.detach()
    begin = first_times(solution.t).detach().to(solution.reached)
    t = begin.to(x.dtype.to_real()).expand(x.shape[1]).reshape(-1, *[1] * (x.ndim - 2))
    lam, weight, _ = func.parts(t, x[0])
    rate = (solution.accepted / (solution.reached - begin).abs()).to(x.dtype.to_real()).reshape(t.shape)  # 1/h
    share = _smallest_share(weight / torch.maximum(lam.abs(), rate), x[0])
    ratio = torch.where(resting, share * _jacobian_norm(func, x[0], t, 3), 0.0)
    worst = int(ratio.argmax())
    if ratio[worst] <= _RATIO_AT_REST:
        return False
    warnings.warn(
        f"sample {worst} is at rest, so steps grew far beyond stability: the measured ρ|J| is "
        f"{ratio[worst].item():.2g} times the damping or 1/h. The states are right, but do not trust gradients through "
        "such steps, which may overflow; use KenCarp4, or set max_step",
        StiffnessWarning,
        stacklevel=8,
    )
    return True


def warn_if_errors_add_up(crept_error: Tensor) -> bool:
    """Warn if the estimated errors of creeping steps add up. Returns whether it warned.

    Args:
        crept_error: the sum of each sample's error ratios over the steps in which `is_creeping` holds.
    """
    worst = int(crept_error.argmax())
    total = crept_error.reshape(-1)[worst].item()
    if total <= _LARGEST_CREPT_ERROR:
        return False
    warnings.warn(
        "ρ f undoes the damping in many steps in which the state hardly moves, and the errors of such steps add up: "
        f"their estimates sum to {total:.3g} tolerances in sample {worst}, and the true error may be several times "
        "larger; use KenCarp4",
        StiffnessWarning,
        stacklevel=7,
    )
    return True


def warn_if_stiff(func: DampedODEFunc, solution: Solution) -> bool:
    """Warn if f made steps short in units of 1/λ, or if gradients pass through a state at rest. Returns if it warned.

    It calls f only if the steps were short, or a sample is at rest and gradients are wanted.

    Failed samples have a status that says why.
    """
    x = solution.x.detach()
    last = torch.isfinite(x).reshape(*x.shape[:2], -1).all(2).long().cumprod(0).sum(0).sub(1).clamp(min=0)
    x = x[last, torch.arange(x.shape[1], device=x.device)]
    t = solution.reached.to(x.dtype.to_real()).reshape(-1, *[1] * (x.ndim - 1))
    with torch.no_grad():
        lam = func.lam(t, x).abs().expand_as(x).reshape(len(x), -1).amax(1)
    span = (solution.reached - first_times(solution.t).detach().to(solution.reached)).abs()
    damped = lam * span  # λ |t1 − t0| of every sample
    short = (damped >= 100) & (solution.accepted >= damped / 200)
    resting = _at_rest(solution)
    if not bool((short | resting).any()):
        return False
    ratio = torch.where(short, field_to_damping_ratio(func, x, t), 0.0)
    worst = int(ratio.argmax())
    if ratio[worst] <= 0.1:
        return _warn_of_rest(func, solution, resting)
    warnings.warn(
        "the stiffness of f, not λ, keeps explicit steps short: the measured ρ|J|/λ of sample "
        f"{worst} is {ratio[worst].item():.2g}, so ρ f is about as stiff as the damping; "
        f"{int(solution.accepted[worst])} steps were taken over λ|t1 − t0| = {damped[worst].item():.3g}, and their "
        f"errors may add up beyond the tolerance; use KenCarp4{_other_remedies(func, t, x)}",
        StiffnessWarning,
        stacklevel=7,
    )
    return True


def _other_remedies(func: DampedODEFunc, t: Tensor, x: Tensor) -> str:
    """What else helps if ρ grows with λ. With ρ = 1 f itself is stiff, whatever λ."""
    weight = func.weight(func.lam(t, x), x)
    constant = bool((weight == 1.0).all()) if isinstance(weight, Tensor) else weight == 1.0
    return "" if constant else ", ρ = 1 or a smaller λ"


def _norm(x: Tensor) -> Tensor:
    """The norm of every sample, (N, 1, ..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norm.reshape(-1, *[1] * (x.ndim - 1))
