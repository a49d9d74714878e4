"""Equilibria −λx + ρ f(x) = 0 of a damped field, and Prop. 3.3 at them."""

from typing import NamedTuple

import torch
from scipy.sparse.linalg import gmres
from torch import Tensor

from dampode._checks import (
    require_field_value,
    require_instance,
    require_nonnegative,
    require_positive,
    require_positive_int,
)
from dampode._precision import full_float32
from dampode.dynamics import DampedODEFunc
from dampode.stability.jacobian_operator import Field, JacobianOperator, Map, at_time, require_sample
from dampode.stability.spectrum import spectral_abscissa, spectral_norm

__all__ = ["Equilibrium", "find_equilibrium", "is_asymptotically_stable"]


class Equilibrium(NamedTuple):
    """The result of a search for an equilibrium."""

    x: Tensor
    """The state with the smallest residual, (1, *S); detached and on the CPU."""
    converged: bool
    """Whether the residual is below the tolerance."""
    residual: float
    """‖dx/dt‖ / (1 + ‖x‖) at x."""
    iterations: int
    """Number of steps of both phases together."""

    @property
    def message(self) -> str:
        """What to do if the search did not converge; empty if it did."""
        if self.converged:
            return ""
        return (
            f"the residual must reach tol, got {self.residual:.1e} after {self.iterations} iterations; the field may "
            "have no equilibrium near x0: start elsewhere, or raise start_steps, newton_steps or tol"
        )


@full_float32()
def find_equilibrium(
    func: Field,
    x0: Tensor,
    t: float = 0.0,
    *,
    tol: float | None = None,
    window: int = 5,
    start_steps: int = 100,
    newton_steps: int = 30,
) -> Equilibrium:
    """Find a zero of dx/dt near x0: Anderson-accelerated fixed-point steps, then Newton with GMRES.

    The first phase iterates x + (−λx + ρ f(x)) / s with s = max(λ, 1); for λ >= 1 that is the map ρ f(x) / λ. The
    second phase halves each Newton step until it lowers the residual. A search that does not converge is a result, not
    an error, because the field may have no equilibrium.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x0: the state to start from, (1, *S).
        t: depth time at which the field is frozen.
        tol: largest residual ‖dx/dt‖ / (1 + ‖x‖); None: 1e-10 in float64, 1e-5 in float32.
        window: number of differences that Anderson's method combines; 0 for plain fixed-point steps.
        start_steps: largest number of steps of the first phase.
        newton_steps: largest number of steps of the second phase.

    Returns:
        The best state, whether the search converged, the residual and the number of iterations.

    Raises:
        ValueError: x0 is a batch or not finite, func changes its shape, batch norm or dropout is in train mode, or a
            setting is out of range.
        TypeError: func is not callable, or x0 is not a floating tensor.

    Source: Walker & Ni 2011, Anderson acceleration; Knoll & Keyes 2004, Jacobian-free Newton-Krylov methods.
    """
    require_sample(x0, "x0")
    require_positive_int(start_steps, "start_steps")
    require_positive_int(newton_steps, "newton_steps")
    require_instance(window, int, "window")
    require_nonnegative(window, "window")
    if tol is None:
        tol = 1e-10 if x0.dtype == torch.float64 else 1e-5
    require_positive(tol, "tol")
    fn = at_time(func, t)
    with torch.no_grad():
        scale = max(func.lam(t, x0).max().item(), 1.0) if isinstance(func, DampedODEFunc) else 1.0
        x, first = _anderson(fn, x0.detach(), scale, tol, window, start_steps)
    x, second = _newton(fn, x, tol, newton_steps)
    residual = _residual(fn, x)
    return Equilibrium(x.cpu(), residual <= tol, residual, first + second)


@full_float32()
def is_asymptotically_stable(func: Field, x_star: Tensor, t: float = 0.0, *, tol: float = 1e-6) -> bool | None:
    """Whether an equilibrium is locally asymptotically stable by its linearization, Prop. 3.3.

    max Re ν < 0 is sufficient, and max Re ν > 0 excludes stability. The linearization does not decide max Re ν = 0,
    although Prop. 3.3 as printed says "only if". Pass an equilibrium of the damped field itself: an equilibrium of the
    undamped field is not one of the damped field, unless λ x* = 0.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x_star: an equilibrium, (1, *S), such as ``find_equilibrium(func, x0).x``.
        t: depth time at which the field is frozen.
        tol: max Re ν within tol ‖J‖ of 0 counts as undecided.

    Returns:
        True, False, or None if the linearization does not decide.

    Raises:
        ValueError: x_star is not an equilibrium of this field; as `eigenvalues`.
        ConvergenceError: the eigenvalues did not converge.

    Source: Yang et al. 2020, Prop. 3.3; Chen 2001.
    """
    require_sample(x_star, "x_star")
    require_positive(tol, "tol")
    fn = at_time(func, t)
    residual = _residual(fn, x_star)
    allowed = 1e-6 if x_star.dtype == torch.float64 else 1e-3
    if residual > allowed:
        raise ValueError(
            f"x_star must be an equilibrium of this field: ‖dx/dt‖ / (1 + ‖x‖) must be below {allowed:g}, got "
            f"{residual:.2g}; use find_equilibrium(func, x).x of the same field"
        )
    abscissa = spectral_abscissa(func, x_star, t)
    if abs(abscissa) <= tol * spectral_norm(func, x_star, t):
        return None
    return abscissa < 0


def _residual(fn: Map, x: Tensor) -> float:
    """‖dx/dt‖ / (1 + ‖x‖), infinite if it is not finite; an error if dx/dt has another shape or dtype than x."""
    with torch.no_grad():
        dx = fn(x)
        require_field_value(x, dx)
        residual = (dx.norm() / (1 + x.norm())).item()
    return residual if residual < float("inf") else float("inf")


def _anderson(fn: Map, x: Tensor, scale: float, tol: float, window: int, steps: int) -> tuple[Tensor, int]:
    """The best state of fixed-point steps x + dx/dt / scale, combined over a window to make the residual small."""
    best, least = x, _residual(fn, x)
    states: list[Tensor] = []
    defects: list[Tensor] = []
    for n in range(steps):
        if least <= tol:
            return best, n
        states.append(x.flatten())
        defects.append(fn(x).flatten() / scale)
        states, defects = states[-window - 1 :], defects[-window - 1 :]
        new = states[-1] + defects[-1]
        if len(states) > 1:
            moved, changed = (torch.stack(v).diff(dim=0).T for v in (states, defects))  # (D, window)
            weights = torch.linalg.lstsq(changed.cpu().double(), defects[-1].cpu().double()[:, None], driver="gelsd")
            new = new - ((moved + changed) @ weights.solution.to(x))[:, 0]
        x = new.view(x.shape)
        residual = _residual(fn, x)
        if residual < least:
            best, least = x, residual
        elif not residual < 1e3 * max(least, 1.0):
            return best, n + 1  # the iteration diverges: Newton continues from the best state
    return best, steps


def _newton(fn: Map, x: Tensor, tol: float, steps: int) -> tuple[Tensor, int]:
    """Newton steps by GMRES, halved until they lower the residual."""
    residual = _residual(fn, x)
    for n in range(steps):
        if residual <= tol:
            return x, n
        operator = JacobianOperator(fn, x)
        with torch.no_grad():
            target = -fn(x).flatten().cpu().numpy()
        step, _ = gmres(operator, target, rtol=1e-6, restart=min(len(target), 60), maxiter=5)
        direction = torch.from_numpy(step).to(x).view(x.shape)
        for halving in range(12):
            trial = x + 0.5**halving * direction
            lowered = _residual(fn, trial)
            if lowered < residual:
                x, residual = trial, lowered
                break
        else:
            return x, n + 1
    return x, steps
