"""Equilibria −λx + ρ f(x) = 0 of a damped field, and Prop. 3.3 at them."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_field_value, require_positive
from dampode._precision import default_dtype, full_float32
from dampode.damping import Constant
from dampode.dynamics import DampedODEFunc
from dampode.integrators import SteadyState
from dampode.stability.jacobian_operator import Field, Map, at_time, require_sample
from dampode.stability.spectrum import spectral_abscissa, spectral_norm

__all__ = ["Equilibrium", "find_equilibrium", "is_asymptotically_stable"]


class Equilibrium(NamedTuple):
    """The result of a search for an equilibrium."""

    x: Tensor
    """The state with the smallest residual, (1, *S); detached and on the CPU."""
    converged: bool
    """Whether it is an equilibrium to the tolerance."""
    residual: float
    """‖dx/dt‖ / (s (1 + ‖x‖)) at x, with s = max(λ, 1)."""
    calls: int
    """Calls of f."""

    @property
    def message(self) -> str:
        """What to do if the search did not converge; empty if it did."""
        if self.converged:
            return ""
        return (
            f"the residual must reach tol, got {self.residual:.1e} after {self.calls} calls of f; the field may have "
            "no equilibrium near x0: start elsewhere, or raise max_calls, memory or tol"
        )


@full_float32()
def find_equilibrium(
    func: Field,
    x0: Tensor,
    t: float = 0.0,
    *,
    tol: float | None = None,
    memory: int = 16,
    max_calls: int = 500,
) -> Equilibrium:
    """Find a zero of dx/dt near x0 by `dampode.integrators.SteadyState`.

    A search that does not converge is a result, not an error, because the field may have no equilibrium.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x0: the state to start from, (1, *S).
        t: depth time at which the field is frozen.
        tol: largest residual ‖dx/dt‖ / (s (1 + ‖x‖)), s = max(λ, 1); None: 1e-10 in float64, 1e-5 in float32.
        memory: number of states that Anderson's method combines.
        max_calls: largest number of calls of f.

    Returns:
        The best state, whether the search converged, the residual and the number of calls.

    Raises:
        ValueError: x0 is a batch or not finite, func changes its shape, batch norm or dropout is in train mode, or a
            setting is out of range.
        TypeError: func is not callable, or x0 is not a floating tensor.

    Source: Walker & Ni 2011, Anderson acceleration.
    """
    require_sample(x0, "x0")
    if tol is None:
        tol = 1e-10 if x0.dtype == torch.float64 else 1e-5
    require_positive(tol, "tol")
    solver = SteadyState(rtol=tol, atol=tol / x0.numel() ** 0.5, max_calls=max_calls, memory=memory)
    fn = at_time(func, t)
    damped = func if isinstance(func, DampedODEFunc) else DampedODEFunc(func, Constant(0.0))
    with torch.no_grad(), default_dtype(x0.dtype):
        found = solver.equilibria(damped, x0, t)
    residual = _residual(fn, found.x, func, t)
    return Equilibrium(found.x.cpu(), found.converged, residual, int(found.nfe))


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
    residual = _residual(fn, x_star, func, t)
    allowed = 1e-6 if x_star.dtype == torch.float64 else 1e-3
    if residual > allowed:
        raise ValueError(
            f"x_star must be an equilibrium of this field: ‖dx/dt‖ / (max(λ, 1) (1 + ‖x‖)) must be below {allowed:g}, "
            f"got {residual:.2g}; use find_equilibrium(func, x).x of the same field"
        )
    abscissa = spectral_abscissa(func, x_star, t)
    if abs(abscissa) <= tol * spectral_norm(func, x_star, t):
        return None
    return abscissa < 0


def _residual(fn: Map, x: Tensor, func: Field, t: float) -> float:
    """‖dx/dt‖ / (s (1 + ‖x‖)), infinite if it is not finite; an error if dx/dt has another shape or dtype than x."""
    with torch.no_grad(), default_dtype(x.dtype):
        dx = fn(x)
        require_field_value(x, dx)
        scale = func.lam(t, x).clamp(min=1.0) if isinstance(func, DampedODEFunc) else x.new_ones(())
        residual = ((dx / scale).norm() / (1 + x.norm())).item()
    return residual if residual < float("inf") else float("inf")
