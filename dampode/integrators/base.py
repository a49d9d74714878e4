"""What every integrator is: a frozen dataclass that maps the state at t0 to the state at t1."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive_int, require_real, require_state
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.recompute import recomputed, require_segments, segments
from dampode.integrators.solution import Solution, solution_of_batch


class IntegrationError(RuntimeError):
    """A solve that could not reach its end time: what happened, where, and what to do."""


def require_field_and_state(func: DampedODEFunc, x: Tensor) -> None:
    """Raise unless these can be integrated. Reads no values."""
    require_instance(func, DampedODEFunc, "func", "wrap f in DampedODEFunc(f, damping)")
    require_state(x)


def require_call(func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> None:
    """Raise unless these can be an integrator's arguments. Reads no values."""
    require_field_and_state(func, x)
    require_real(t0, "t0")
    require_real(t1, "t1")


def require_single(x: Tensor) -> None:
    """Raise unless a state is of a dtype that a tolerance makes sense for."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"a tolerance needs a float32 or float64 state, got {x.dtype}, which rounds by more; convert it with "
            "x.float(), or take a fixed step"
        )


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

    The forward pass reads no values, so it compiles and exports whole. Gradients flow through every step, to the state,
    to the parameters of f and λ and, in `odeint`, to the times; double backward works.

    Args:
        steps: number of steps.
        recompute: number of segments of steps that the backward pass recomputes, at most ``steps``; None keeps what
            every step computed. About √steps segments keep about √steps states and the steps of one segment. This costs
            one more forward pass and gives the same gradients. f then runs twice, so batch norm in train mode counts a
            batch twice.

    Raises:
        ValueError, TypeError: steps or recompute is not a positive int, or recompute exceeds steps.
    """

    steps: int = 1
    recompute: int | None = field(default=None, repr=False)  # it changes no value, so it is no part of an architecture
    order: ClassVar[int]
    """Global order of accuracy in h, at fixed λ."""

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.steps, "steps")
        require_segments(self.recompute, self.steps)

    @abstractmethod
    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step from the state x at t to the state at t + h."""

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, after ``steps`` equal steps."""
        require_call(func, x, t0, t1)
        return self._march(func, x, t0, (t1 - t0) / self.steps)

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times``, with ``steps`` steps from one to the next. Reads no values."""
        states = [x]
        lengths = times.diff() / self.steps  # before the state's dtype: float32 has no short step at a late time
        for t0, h in zip(times[:-1].to(x).unbind(), lengths.to(x).unbind(), strict=True):
            x = self._march(func, x, t0, h)
            states.append(x)
        return torch.stack(states)

    def _march(self, func: DampedODEFunc, x: Tensor, t0: Scalar, h: Scalar) -> Tensor:
        """The state after ``steps`` equal steps h from t0."""

        def run(numbers: range, x: Tensor, *clock: Tensor) -> tuple[Tensor]:
            start, length = clock or (t0, h)
            for n in numbers:
                x = self.step(func, x, start + n * length, length)
            return (x,)

        if self.recompute is None:
            return run(range(self.steps), x)[0]
        clock = (t0, h) if isinstance(t0, Tensor) and isinstance(h, Tensor) else ()  # they may want gradients
        for numbers in segments(self.steps, self.recompute):
            (x,) = recomputed(partial(run, numbers), func, x, *clock)
        return x

    def _steps(self, times: Tensor) -> int:
        """``steps`` for every interval."""
        return self.steps * (len(times) - 1)
