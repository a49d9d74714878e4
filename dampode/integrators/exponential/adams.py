"""The exponential Adams method: Eq. 4 to a tolerance, with a step size and an order per sample."""

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dampode._checks import require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential.adams_loop import AdamsLoop
from dampode.integrators.exponential.adams_step import StepFunction, try_step
from dampode.integrators.exponential.multistep_weights import MAX_ORDER
from dampode.integrators.exponential.stiffness import warn_if_stiff
from dampode.integrators.jumps import Jumps
from dampode.integrators.recompute import require_segments
from dampode.integrators.solution import Solution
from dampode.integrators.step_control import Tolerance
from dampode.integrators.to_tolerance import TolerantIntegrator

__all__ = ["ExponentialAdams"]


@dataclass(frozen=True)
class ExponentialAdams(TolerantIntegrator):
    """The exponential Adams method with a step size and an order per sample.

    Todo:
    Source: Nørsett 1969.
    """

    max_order: int = MAX_ORDER
    recompute: int | None = field(default=None, repr=False)  # it changes no value, so it is no part of an architecture

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_positive_int(self.max_order, "max_order")
        if self.max_order > MAX_ORDER:
            raise ValueError(
                f"max_order must be at most {MAX_ORDER}, got {self.max_order}; lower rtol for more accuracy"
            )
        require_segments(self.recompute)

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Solution:
        """The states with statistics and a status per sample. Warns if f is too stiff for an explicit method."""
        solution = super().solve(func, x, times, jumps)
        warn_if_stiff(func, solution)
        return solution

    @property
    def _replays(self) -> bool:
        """Whether the accepted steps are taken again in segments."""
        return self.recompute is not None

    def _loop(self, func: DampedODEFunc, x: Tensor, times: Tensor, calls: CallCounter) -> AdamsLoop:
        """The loop of a solve, at its start."""
        step, tol = _compiled_step() if self.compile else try_step, Tolerance(self.rtol, self.atol)
        return AdamsLoop(func, x, times, tol, calls, step, self.max_order, self.recompute or 1)


@functools.cache
def _compiled_step() -> StepFunction:
    """`try_step` under torch.compile. All solves share it, and with it the forms that are already compiled."""
    compiled: StepFunction = torch.compile(try_step)
    return compiled
