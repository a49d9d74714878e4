"""What integrators to a tolerance share: their settings, failures as errors, gradients with respect to the times."""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dampode._checks import require_positive, require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.integrators.base import IntegrationError, Integrator, require_call
from dampode.integrators.end_times import CALLS, with_ends, with_start
from dampode.integrators.solution import Solution


@dataclass(frozen=True)
class TolerantIntegrator(Integrator):
    """An integrator with a step size per sample. A subclass writes ``_steps_taken``.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: attempted steps a sample may take.
        first_step: length of the first step, > 0; None estimates it.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type; in a solve, a state of half precision.
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    max_steps: int = 100_000
    first_step: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive(self.rtol, "rtol")
        require_positive(self.atol, "atol")
        require_positive_int(self.max_steps, "max_steps")
        if self.first_step is not None:
            require_positive(self.first_step, "first_step")

    @abstractmethod
    def _steps_taken(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """A solve at times without gradient."""

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, (N, *S)."""
        require_call(func, x, t0, t1)
        if t0 == t1:
            return x
        return self.trajectory(func, x, torch.tensor([t0, t1], dtype=torch.float64))[-1]

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times``, or an IntegrationError where a sample fails."""
        solution = self._run(func, x, times)
        failure = solution.failure()
        if failure is not None:
            raise IntegrationError(failure)
        return solution.x

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """The states with statistics and a status per sample."""
        return self._run(func, x, times)

    def _run(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"a tolerance needs a float32 or float64 state, got {x.dtype}, which rounds by more; convert it with "
                "x.float(), or take a fixed step"
            )
        if not times.requires_grad:
            return self._steps_taken(func, x, times)
        solution = self._steps_taken(func, with_start(func, x, times[0]), times.detach())
        xs = torch.cat((x[None], with_ends(func, solution.x[1:], times[1:])))
        return replace(solution, t=times, x=xs, nfe=solution.nfe + CALLS * len(times))
