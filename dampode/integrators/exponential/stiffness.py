"""Where explicit methods are out of their depth: the measured ratio ρ|J|/λ of f's stiffness to the damping's."""

import warnings

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.solution import Solution


class StiffnessWarning(UserWarning):
    """A solve whose steps were held short by ρ f, which no explicit method takes exactly."""


@torch.no_grad()
def field_to_damping_ratio(func: DampedODEFunc, x: Tensor, t: Tensor, iterations: int = 6) -> Tensor:
    """ρ|J|/λ of every sample, J = ∂f/∂x: how stiff the nonlinear part is beside the damping.

    Args:
        func: the damped vector field.
        x: states, (N, *S).
        t: their times, (N, 1, ..., 1).
        iterations: of the power method on difference quotients of f, each one call; |J| is bounded from below.

    Returns:
        The ratio at each sample's largest λ, (N,); infinity where λ is 0.
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
    """Warn where a solve took short steps, in units of 1/λ, and f is the reason. Costs calls of f only then."""
    x = solution.x.detach()
    last = torch.isfinite(x).reshape(*x.shape[:2], -1).all(2).long().cumprod(0).sum(0).sub(1).clamp(min=0)
    x = x[last, torch.arange(x.shape[1], device=x.device)]
    with torch.no_grad():
        lam = func.damping(x).expand_as(x).reshape(len(x), -1).amax(1)
    damped = lam * (solution.reached - solution.t[0].item()).abs()  # λ |t1 − t0| of every sample
    short = (damped >= 100) & (solution.accepted >= damped / 200)
    if not bool(short.any()):
        return
    t = solution.reached.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    ratio = torch.where(short, field_to_damping_ratio(func, x, t), 0.0)
    worst = int(ratio.argmax())
    if ratio[worst] > 0.1:
        warnings.warn(
            "explicit steps are held short by f and not by λ: the measured ρ|J|/λ of sample "
            f"{worst} is {ratio[worst].item():.2g}, so ρ f is about as stiff as the damping; "
            f"{int(solution.accepted[worst])} steps were taken over λ|t1 − t0| = {damped[worst].item():.3g}, and their "
            "errors may add up beyond the tolerance; use KenCarp4, ρ = 1 or a smaller λ",
            StiffnessWarning,
            stacklevel=4,
        )


def _norm(x: Tensor) -> Tensor:
    """Norm of every sample, (N, 1, ..., 1)."""
    norm: Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1)
    return norm.reshape(-1, *[1] * (x.ndim - 1))
