"""A warning where f is too stiff for an explicit method: the measured ratio ρ|J|/λ of its stiffness to the damping."""

import warnings

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.sample_times import first_times
from dampode.integrators.solution import Solution
from dampode.integrators.stiff_steps import StiffnessWarning

__all__ = ["field_to_damping_ratio", "warn_if_stiff"]


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
    lam, weight, fx = func.parts(t, x)
    reach = torch.finfo(x.dtype).eps ** 0.5 * (1 + _norm(x))
    v = torch.ones_like(x) * torch.linspace(1, 2, x[0].numel(), dtype=x.dtype, device=x.device).reshape(x.shape[1:])
    gain = torch.zeros_like(reach)
    for _ in range(iterations):
        v = v / _norm(v).clamp(min=torch.finfo(x.dtype).tiny)
        v = (func.f(t, x + reach * v) - fx) / reach
        gain = _norm(v)
    share: Tensor = (weight / lam).expand_as(x).reshape(len(x), -1).amin(1)
    return share * gain.reshape(-1)


def warn_if_stiff(func: DampedODEFunc, solution: Solution) -> None:
    """Warn if the steps of a solve were short in units of 1/λ because of f. It calls f only if they were short."""
    x = solution.x.detach()
    last = torch.isfinite(x).reshape(*x.shape[:2], -1).all(2).long().cumprod(0).sum(0).sub(1).clamp(min=0)
    x = x[last, torch.arange(x.shape[1], device=x.device)]
    t = solution.reached.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    with torch.no_grad():
        lam = func.lam(t, x).expand_as(x).reshape(len(x), -1).amax(1)
    span = (solution.reached - first_times(solution.t).detach().to(solution.reached)).abs()
    damped = lam * span  # λ |t1 − t0| of every sample
    short = (damped >= 100) & (solution.accepted >= damped / 200)
    if not bool(short.any()):
        return
    ratio = torch.where(short, field_to_damping_ratio(func, x, t), 0.0)
    worst = int(ratio.argmax())
    if ratio[worst] > 0.1:
        warnings.warn(
            "the stiffness of f, not λ, keeps explicit steps short: the measured ρ|J|/λ of sample "
            f"{worst} is {ratio[worst].item():.2g}, so ρ f is about as stiff as the damping; "
            f"{int(solution.accepted[worst])} steps were taken over λ|t1 − t0| = {damped[worst].item():.3g}, and their "
            f"errors may add up beyond the tolerance; use KenCarp4{_other_remedies(func, t, x)}",
            StiffnessWarning,
            stacklevel=4,
        )


def _other_remedies(func: DampedODEFunc, t: Tensor, x: Tensor) -> str:
    """What else helps if ρ grows with λ. With ρ = 1 f itself is stiff, whatever λ."""
    return "" if func.weight(func.lam(t, x), x) == 1.0 else ", ρ = 1 or a smaller λ"


def _norm(x: Tensor) -> Tensor:
    """The norm of every sample, (N, 1, ..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norm.reshape(-1, *[1] * (x.ndim - 1))
