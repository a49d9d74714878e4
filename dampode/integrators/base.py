"""The base classes: an integrator is a frozen dataclass that maps the state at t0 to the state at t1."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Self

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive_int, require_real, require_state
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.call_counter import CountedField
from dampode.integrators.dense_output import Interpolant, interpolant_between
from dampode.integrators.dense_solution import Piece, dense_solution, require_no_dense
from dampode.integrators.fixed_grid import grid_columns, grid_with_stops, parts_between, states_at
from dampode.integrators.jumps import Jumps, jumped, require_no_jumps
from dampode.integrators.recompute import recomputed, require_segments, segments
from dampode.integrators.sample_times import columns, require_shared
from dampode.integrators.solution import Solution, solution_of_batch
from dampode.integrators.splitting import Splitting
from dampode.integrators.tolerance import Tolerances
from dampode.paths import require_cover

__all__ = [
    "FixedStep",
    "IntegrationError",
    "Integrator",
    "LayOut",
    "require_call",
    "require_field_and_state",
    "require_single",
]


LayOut = Callable[[Tolerances, str], Scalar]
"""Lays out a tolerance with a value for each part of a structured state, which it gets with its name, as the state is
laid out."""


class IntegrationError(RuntimeError):
    """A solve did not reach its last time. The message says what happened, at which time, and what to do."""


def require_field_and_state(func: DampedODEFunc, x: Tensor) -> None:
    """Raise unless func is a damped vector field and x is a state. Reads no values."""
    remedy = (
        "wrap f in DampedODEFunc(f, damping); dx/dt = f(x) alone is DampedODEFunc(f, Constant(0.0)), and an f(t, x) is "
        "dampode.fields.TimeDependent(f)"
    )
    require_instance(func, DampedODEFunc, "func", remedy)
    require_state(x.real if isinstance(x, Tensor) and func.damping.is_complex else x)


def require_call(func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> None:
    """Raise unless the arguments of an integrator are valid. Reads no values."""
    require_field_and_state(func, x)
    require_real(t0, "t0")
    require_real(t1, "t1")
    if not torch.compiler.is_compiling():
        require_cover(func, torch.tensor(t0, dtype=torch.float64), torch.tensor(t1, dtype=torch.float64))


def require_single(x: Tensor) -> None:
    """Raise unless the state is of float32 or float64, as a tolerance requires."""
    if x.dtype.to_real() not in (torch.float32, torch.float64):
        raise TypeError(
            f"a tolerance needs a float32 or float64 state, got {x.dtype}, which rounds too coarsely; convert it "
            "with x.float(), or take a fixed step"
        )


@dataclass(frozen=True)
class Integrator(ABC):
    """A way to integrate Eq. 4 over [t0, t1]. It holds settings, no parameters: safe as a default argument."""

    exact_damping: ClassVar[bool] = False
    """Whether −λx is integrated exactly, for complex λ as well. A damping matrix is then diagonalized."""

    def laid_out(self, flat: LayOut) -> Self:
        """This integrator for a structured state that is laid out as one tensor. It is the same without tolerances."""
        return self

    @abstractmethod
    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, (N, *S), of the trajectory that is at x at t0."""

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Tensor:
        """The states at ``times``: (T, N, *S), x first.

        Args:
            func: the damped vector field.
            x: initial state, (N, *S).
            times: (T,), strictly monotonic, or (N, T), where a row may end with a repeated time. An integrator that
                cannot take times of each sample raises a ValueError.
            jumps: where the state jumps; None if nowhere. An integrator that cannot stop there raises a ValueError.
        """
        require_shared(times, type(self).__name__)
        require_no_jumps(jumps, type(self).__name__)
        values: list[float] = times.tolist()
        states = [x]
        for t0, t1 in pairwise(values):
            states.append(self(func, states[-1], t0, t1))
        return torch.stack(states)

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """`trajectory` with statistics and a status per sample. All samples have the same counts."""
        require_no_dense(dense, type(self).__name__, "take ExponentialAdams, KenCarp4 or a fixed step")
        field = CountedField(func.f)
        xs = self.trajectory(DampedODEFunc(field, func.damping, func.rho), x, times, jumps)
        return solution_of_batch(times, xs, field.calls, -1)


@dataclass(frozen=True)
class FixedStep(Integrator):
    """Equal steps h = (t1 − t0) / steps. A subclass declares its ``order`` and writes ``step``.

    The forward pass reads no values, so it compiles and exports to one graph. Gradients flow through every step to the
    state, to the parameters of f and λ and, in `odeint`, to the times. Double backward works.

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
        """The state at t1, after ``steps`` equal steps from t0, or from each break of f, to the next or to t1."""
        require_call(func, x, t0, t1)
        if func.breaks() is not None:
            return self.trajectory(func, x, torch.tensor([t0, t1], dtype=torch.float64, device=x.device))[-1]
        return self._march(func, x, t0, (t1 - t0) / self.steps)

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Tensor:
        """The states at all ``times``, with ``steps`` steps from each time, jump or break of f to the next.

        A step that ends at a jump or a break sees the field as it is before. Reads no values.
        """
        return self._states(func, x, times, jumps, None)[0]

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """`trajectory` with statistics and a status per sample. With ``dense``, each step calls f twice more."""
        if self.recompute is not None:
            require_no_dense(dense, "recompute=", "it keeps every step, which recompute= avoids: leave one of them out")
        field = CountedField(func.f)
        pieces: list[Piece] | None = [] if dense else None
        xs, intervals = self._states(DampedODEFunc(field, func.damping, func.rho), x, times, jumps, pieces)
        solution = solution_of_batch(times, xs, field.calls, self.steps * intervals)
        return solution if pieces is None else replace(solution, dense=dense_solution(pieces, times, xs, False))

    def _states(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None, pieces: list[Piece] | None
    ) -> tuple[Tensor, int]:
        """The states at all ``times``, and the number of intervals. The states inside steps are added to ``pieces``."""
        grid = grid_with_stops(times, jumps, func.breaks(), x)
        grid_times = times if grid is None else grid.times
        # subtract before rounding to the state's dtype, which may not resolve a short step at a late time
        lengths = grid_times.diff() / self.steps
        intervals = (*zip(columns(grid_times[..., :-1], x), columns(lengths, x), strict=True), None)
        numbers = [None] * len(intervals) if grid is None else grid_columns(grid, x)
        funcs = [func] * len(intervals) if grid is None else [*parts_between(func, grid, x), func]
        states = []
        for j, part, interval in zip(numbers, funcs, intervals, strict=True):
            if jumps is not None and j is not None:
                x = jumped(jumps, j.clamp(min=0), j >= 0, x)
            states.append(x)
            if interval is not None:
                steps = None if pieces is None else list[Interpolant]()
                x = self._march(part, x, *interval, steps)
                if pieces is not None and steps is not None:
                    k = len(states) - 1
                    pieces.extend(zip(steps, self._ends(grid_times, k, len(x)), strict=True))
        return torch.stack(states) if grid is None else states_at(grid, states), lengths.shape[-1]

    def _ends(self, times: Tensor, k: int, n: int) -> list[Tensor]:
        """τ after each step of the interval with the number k, (N,)."""
        tau = (times.detach().double() - times.detach().double()[..., :1]).abs()
        begin, end = (tau[..., m].expand(n) for m in (k, k + 1))
        return [torch.lerp(begin, end, m / self.steps) for m in range(1, self.steps + 1)]

    def _march(
        self, func: DampedODEFunc, x: Tensor, t0: Scalar, h: Scalar, inside: list[Interpolant] | None = None
    ) -> Tensor:
        """The state after ``steps`` equal steps h from t0. The states inside the steps are added to ``inside``."""

        def run(numbers: range, x: Tensor, *times: Tensor) -> tuple[Tensor]:
            start, length = times or (t0, h)
            for n in numbers:
                before, t = x, start + n * length
                x = self.step(func, x, t, length)
                if inside is not None:
                    inside.append(_inside_of(func, before, x, t, torch.as_tensor(length)))
            return (x,)

        if self.recompute is None:
            return run(range(self.steps), x)[0]
        times = (t0, h) if isinstance(t0, Tensor) and isinstance(h, Tensor) else ()  # tensors may want gradients
        for numbers in segments(self.steps, self.recompute):
            (x,) = recomputed(partial(run, numbers), func, x, *times)
        return x


def _inside_of(func: DampedODEFunc, x: Tensor, end: Tensor, t: Scalar, h: Tensor) -> Interpolant:
    """The states inside a step from x at t to ``end`` at t + h. It calls f twice."""
    splitting = Splitting(func, t, x)
    return interpolant_between(x, splitting.nonlinear(t, x), end, splitting.nonlinear(t + h, end), splitting.lam, h)
