"""The times of a fixed-step solve with its stops, and the field between two stops."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.jumps import Jumps
from dampode.integrators.sample_times import columns

__all__ = ["FieldBetweenStops", "Grid", "grid_columns", "grid_with_stops", "parts_between", "states_at"]


class Grid(NamedTuple):
    """The times of a fixed-step solve with its jumps and its field's breaks, in one order."""

    times: Tensor
    """(G,) or (N, G), monotonic."""
    jump: Tensor
    """The number of the jump at each of them, −1 without a jump, the shape of ``times``."""
    stop: Tensor
    """Whether there is a jump or a break, the shape of ``times``."""
    output: Tensor
    """Where the output times are among them, (T,) or (N, T)."""


class FieldBetweenStops(DampedODEFunc):
    """A damped vector field on one side of its stops.

    A time that is at a stop, or by rounding beyond it, is replaced by the nearest time inside. The latest time does not
    belong to the inside: a field that changes there is seen as it is before. Gradients with respect to time pass.

    Args:
        func: the damped vector field.
        low: the earliest time, () or (N, 1, ..., 1), −∞ if it is no stop.
        high: the latest time, of the same shape, ∞ if it is no stop.
    """

    def __init__(self, func: DampedODEFunc, low: Tensor, high: Tensor) -> None:
        super().__init__(func.f, func.damping, func.rho)
        self._low, self._high = low, torch.nextafter(high, torch.full_like(high, -torch.inf))

    def lam(self, t: Scalar, x: Tensor) -> Tensor:
        """λ(t, x) at the time inside."""
        return super().lam(self._inside(t), x)

    def field(self, t: Scalar, x: Tensor) -> Tensor:
        """f(x, t) at the time inside."""
        return super().field(self._inside(t), x)

    def _inside(self, t: Scalar) -> Tensor:
        """The time inside with the gradient of t."""
        t = torch.as_tensor(t).to(self._low)
        inside = torch.minimum(torch.maximum(t.detach(), self._low), self._high)
        return t + (inside - t.detach())  # exact, because the two are near to each other


def grid_with_stops(times: Tensor, jumps: Jumps | None, breaks: Tensor | None, x: Tensor) -> Grid | None:
    """The output times, the jumps and the breaks in one order; None without stops.

    A stop comes before an output at its time. Padding is put to the end of the solve. It reads the values of breaks, to
    leave out those outside of the solve; under torch.compile it reads none.

    Args:
        times: (T,) or (N, T), monotonic.
        jumps: the jumps; None if there are none.
        breaks: the breaks of the field, (J,) or (N, J) padded with NaN; None if there are none.
        x: a state, (N, *S).
    """
    if jumps is None and breaks is None:
        return None
    none = times.new_empty(0)
    at = none if jumps is None else jumps.times.to(times)
    if breaks is not None:
        times, at = times.double(), at.double()  # the field compares with its breaks as they are
    broken = none.to(times) if breaks is None else _breaks_inside(breaks.to(times), times.detach())
    if max(times.ndim, at.ndim, broken.ndim) == 2:
        times, at, broken = (v.expand(len(x), -1) for v in (times, at, broken))
    number = torch.arange(at.shape[-1], device=at.device).expand(at.shape)
    number = torch.cat((number, number.new_full(broken.shape, -1)), -1)
    at = torch.cat((at, broken), -1)
    padding = torch.isnan(at)
    at = torch.where(padding, times[..., -1:].detach(), at)
    both = torch.cat((at, times), -1)
    falling = (times[..., -1:] - times[..., :1]).detach() < 0
    order = torch.where(falling, -both.detach(), both.detach()).argsort(dim=-1, stable=True)
    jump = torch.cat((number.masked_fill(padding, -1), number.new_full(times.shape, -1)), -1).gather(-1, order)
    stop = torch.cat((~padding, torch.zeros_like(times, dtype=torch.bool)), -1).gather(-1, order)
    place = order.argsort(dim=-1)[..., at.shape[-1] :]
    return Grid(both.gather(-1, order), jump, stop, place)


def _breaks_inside(breaks: Tensor, times: Tensor) -> Tensor:
    """The breaks inside the solve, padded with NaN."""
    first, last = times[..., :1], times[..., -1:]
    outside = (breaks < torch.minimum(first, last)) | (breaks > torch.maximum(first, last))
    inside: Tensor = torch.where(outside, torch.nan, breaks).sort(-1).values
    if torch.compiler.is_compiling():
        return inside
    return inside[..., ~torch.isnan(inside).reshape(-1, inside.shape[-1]).all(0)]


def states_at(grid: Grid, states: list[Tensor]) -> Tensor:
    """The states at the output times, (T, N, *S), out of those at all times of the grid."""
    xs = torch.stack(states)
    if grid.output.ndim == 1:
        return xs[grid.output]
    return xs[grid.output.T, torch.arange(xs.shape[1], device=xs.device)]


def grid_columns(grid: Grid, x: Tensor) -> tuple[Tensor, ...]:
    """The number of each sample's jump, (N,), at one time of the grid after the other."""
    return grid.jump.movedim(-1, 0).reshape(grid.jump.shape[-1], -1).expand(-1, len(x)).unbind()


def parts_between(func: DampedODEFunc, grid: Grid, x: Tensor) -> list[DampedODEFunc]:
    """The damped vector field in one interval of the grid after the other."""
    times = grid.times.detach()
    begin, end = times[..., :-1], times[..., 1:]
    falling = times[..., -1:] < times[..., :1]
    # an output at the time of a stop comes after it, and begins the next interval
    stop = grid.stop | torch.nn.functional.pad(grid.stop[..., :-1] & (begin == end), (1, 0))
    at_begin, at_end = stop[..., :-1], stop[..., 1:] & (begin != end)
    low = torch.where(torch.where(falling, at_end, at_begin), torch.minimum(begin, end), -torch.inf)
    high = torch.where(torch.where(falling, at_begin, at_end), torch.maximum(begin, end), torch.inf)
    pairs = zip(columns(low, x), columns(high, x), strict=True)
    return [FieldBetweenStops(func, *pair) for pair in pairs]
