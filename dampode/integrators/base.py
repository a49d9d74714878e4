"""What every integrator is: a frozen dataclass that maps the state at t0 to the state at t1."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dampode._checks import require_positive_int, require_real
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.solution import Solution, solution_of_batch


class IntegrationError(RuntimeError):
    """A solve that could not reach its end time: what happened, where, and what to do."""


@dataclass(frozen=True)
class Integrator(ABC):
    """A way to integrate Eq. 4 over [t0, t1]. Holds settings, no parameters; safe as a default argument."""

    @abstractmethod
    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1 of the trajectory that is at x, (N, *S), at t0."""

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times`` (T,), strictly monotonic: (T, N, *S), x first."""
        clock: list[float] = times.tolist()
        states = [x]
        for t0, t1 in pairwise(clock):
            states.append(self(func, states[-1], t0, t1))
        return torch.stack(states)

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """`trajectory` with its calls of f counted and a status per sample. One count serves the whole batch."""
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        hook = func.f.register_forward_hook(count)
        try:
            xs = self.trajectory(func, x, times)
        finally:
            hook.remove()
        return solution_of_batch(times, xs, calls, self._steps(times))

    def _steps(self, times: Tensor) -> int:
        """Steps that a solve at these times takes, -1 where only the integrator's library knows."""
        return -1


@dataclass(frozen=True)
class FixedStep(Integrator):
    """Equal steps h = (t1 − t0) / steps. A subclass declares its ``order`` and writes ``step``.

    The forward pass reads no values, so it compiles and exports whole.

    Args:
        steps: number of steps.

    Raises:
        ValueError, TypeError: steps is not a positive int.
    """

    steps: int = 1
    order: ClassVar[int]
    """Global order of accuracy in h, at fixed λ."""

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.steps, "steps")

    @abstractmethod
    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step from the state x at t to the state at t + h."""

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, after ``steps`` equal steps."""
        require_real(t0, "t0")
        require_real(t1, "t1")
        h = (t1 - t0) / self.steps
        for n in range(self.steps):
            x = self.step(func, x, t0 + n * h, h)
        return x

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times``, with ``steps`` steps from one to the next. Reads no values."""
        states = [x]
        for t0, t1 in pairwise(times.to(x).unbind()):
            h = (t1 - t0) / self.steps
            for n in range(self.steps):
                x = self.step(func, x, t0 + n * h, h)
            states.append(x)
        return torch.stack(states)

    def _steps(self, times: Tensor) -> int:
        """``steps`` for every interval."""
        return self.steps * (len(times) - 1)
