"""How stiff the steps of torchdiffeq's explicit methods are, measured by the values of dx/dt."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from dampode.integrators.stiff_steps import (
    BOUND,
    StiffnessWarning,
    are_stiff,
    relative_change,
    warn_of_stiff_steps,
)

__all__ = ["StiffnessWatch"]

_EVERY = 16
"""Accepted steps per extra call of f, of methods that have no two stages at one time."""

_LOW_BOUND = 0.9
"""Stability bounds a step of such a method if h|J| is above this: torchdiffeq's adaptive_heun is stable up to 1, bosh3
and fehlberg2 up to 2.5 and 2."""


class StiffnessWatch:
    """Measures h|J| of steps, with J = ∂(dx/dt)/∂x.

    Most methods have two stages at one time, whose values are compared. The others get a call of f at a changed state
    in every 16th accepted step. So does a state at rest: its steps grow without bound, because no error shows how far
    they are beyond stability, but gradients pass through them.

    Args:
        rate: dx/dt at (t, x), for the extra calls.
    """

    def __init__(self, rate: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._rate = rate
        self._calls: list[tuple[Tensor, Tensor, Tensor]] = []  # the last two
        self._pair_time = math.nan
        self._has_pairs, self._accepted = False, 0
        self._steps, self._stiff_steps = 0, 0
        self._rest_step, self._rest_stiffness = 0.0, 0.0

    @torch.no_grad()
    def see_call(self, t: Tensor, x: Tensor, dx: Tensor) -> None:
        """Compare two stages at one time. The last such time is a step away."""
        call = t.detach(), x.detach(), dx.detach()
        self._calls = [*self._calls[-1:], call]
        (t0, x0, dx0), (t1, x1, dx1) = self._calls[0], call
        if len(self._calls) < 2 or bool(t0 != t1) or x0.shape != x1.shape:
            return
        self._has_pairs = True
        now = t1.item()
        h, self._pair_time = abs(now - self._pair_time), now
        apart, size = (v.norm() for v in (x1 - x0, x1))
        growth = relative_change((dx1 - dx0)[None], (x1 - x0)[None])
        known = apart > 100 * torch.finfo(x.dtype).eps * size
        self._count(1, bool(known & (h * growth > BOUND)))

    @torch.no_grad()
    def see_step(self, h: float) -> None:
        """Measure an accepted step by one more call of f, where that is due."""
        (_, _, before), (t, x, dx) = self._calls[0], self._calls[-1]
        at_rest = bool((dx == 0).all()) and h > 2 * self._rest_step
        if at_rest or (not self._has_pairs and self._accepted % _EVERY == 0):
            stiffness = h * self._size_of_jacobian(t, x, dx, dx - before)
            if at_rest:
                self._rest_step, self._rest_stiffness = h, max(stiffness, self._rest_stiffness)
            else:
                self._count(_EVERY, stiffness > _LOW_BOUND)
        self._accepted += 1

    def warn(self, has_gradient: bool) -> None:
        """Warn if stability bounded many steps, or if gradients pass through steps at rest that are beyond it."""
        if are_stiff(self._stiff_steps, self._steps):
            warn_of_stiff_steps(self._stiff_steps, self._steps, "of the batch", has_gradient, self._bound)
        elif has_gradient and self._rest_stiffness > self._bound:
            warnings.warn(
                f"the state is at rest, so steps grew far beyond stability (measured: h|∂F/∂x| = "
                f"{self._rest_stiffness:.3g}, with F = dx/dt). The states are right, but do not trust gradients "
                "through such steps, which may overflow; use KenCarp4, or set max_step among the options",
                StiffnessWarning,
                stacklevel=6,
            )

    @property
    def _bound(self) -> float:
        """Stability bounds a step if h|J| is above this."""
        return BOUND if self._has_pairs else _LOW_BOUND

    def _count(self, steps: int, stiff: bool) -> None:
        self._steps, self._stiff_steps = self._steps + steps, self._stiff_steps + steps * stiff

    def _size_of_jacobian(self, t: Tensor, x: Tensor, dx: Tensor, change: Tensor) -> float:
        """|J| along the last change of dx/dt, in which a stiff J shows most; along all numbers where there is none."""
        direction = change if bool(torch.isfinite(change).all()) and bool(change.any()) else torch.ones_like(x)
        length = torch.finfo(x.dtype).eps ** 0.5 * (1 + x.norm())
        step = length * direction / direction.norm()
        return relative_change((self._rate(t, x + step) - dx)[None], step[None]).item()
