"""Jumps: times at which a solve stops exactly, changes the state, and starts anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.integrators.sample_times import require_rows

__all__ = [
    "Grid",
    "JumpMap",
    "Jumps",
    "grid_columns",
    "grid_with_jumps",
    "jumped",
    "require_jumps",
    "require_no_jumps",
    "states_at",
]

JumpMap = Callable[[Tensor, Tensor], Tensor]
"""(j, x) -> x after the jump, (N, *S): j (N,) int64 holds the number of each sample's jump."""


@dataclass(frozen=True)
class Jumps:
    """Times at which the state jumps, x ← map(j, x), or at which only the vector field is discontinuous.

    An adaptive solve ends a step exactly at each of these times, and starts anew after it without the history of
    before. The state at a jump time is the state after the jump, also at the first and the last time of a solve.

    Args:
        times: (J,) for all samples or (N, J) for each sample, strictly monotonic in the direction of the solve. NaN at
            a row's end pads it. Gradients reach them.
        map: called as map(j, x) with the numbers j (N,) int64 of the samples' jumps and the states x (N, *S); returns
            the states after the jump. It sees the whole batch. Its values count only for the samples that jump; the
            other samples have j = 0. None changes no state: it is for a field that is discontinuous at these times.

    Raises:
        TypeError: times is not a floating tensor, or map is not callable.
        ValueError: times is neither (J,) nor (N, J).
    """

    times: Tensor
    map: JumpMap | None = None

    def __post_init__(self) -> None:
        """Check what needs no solve."""
        require_instance(self.times, Tensor, "the times of jumps", "use torch.tensor")
        if not self.times.is_floating_point():
            raise TypeError(f"the times of jumps must be floating, got dtype {self.times.dtype}; use .double()")
        if self.times.ndim not in (1, 2):
            raise ValueError(f"the times of jumps must be (J,) or (N, J), got shape {tuple(self.times.shape)}")
        if self.map is not None and not callable(self.map):
            raise TypeError(f"map must be callable as map(j, x), got {type(self.map).__name__}")


def jumped(jumps: Jumps, j: Tensor, samples: Tensor, x: Tensor) -> Tensor:
    """The states after the jumps with the numbers j (N,), for the ``samples``, a mask of N values."""
    if jumps.map is None:
        return x
    after = jumps.map(j, x)
    require_instance(after, Tensor, "the state after a jump", "map(j, x) must return it")
    if after.shape != x.shape or after.dtype != x.dtype:
        raise ValueError(
            f"map(j, x) of Jumps must keep the state's shape and dtype: x is {tuple(x.shape)} {x.dtype}, got "
            f"{tuple(after.shape)} {after.dtype}"
        )
    return torch.where(samples.reshape(-1, *[1] * (x.ndim - 1)), after, x)


def require_no_jumps(jumps: Jumps | None, name: str) -> None:
    """Raise if there are jumps."""
    if jumps is not None:
        raise ValueError(
            f"{name} cannot stop at jumps; take AdaptiveExponential, KenCarp4 or a fixed step, or solve from one jump "
            "to the next"
        )


def require_jumps(jumps: Jumps | None, t: Tensor, x: Tensor) -> None:
    """Raise unless the jumps fit to the times of a solve, (T,) or (N, T) without padding.

    Under torch.compile their values are not read.
    """
    if jumps is None:
        return
    require_instance(jumps, Jumps, "jumps", "write Jumps(times, map)")
    times = jumps.times.detach()
    if times.ndim == 2 and len(times) != len(x):
        raise ValueError(
            f"the times of jumps must have a row per sample, got {len(times)} rows for {len(x)} samples; times of all "
            "samples are (J,)"
        )
    if torch.compiler.is_compiling() or times.shape[-1] == 0:
        return
    require_rows(times, "the times of jumps", may_be_empty=True)
    first, last = (t.detach().select(-1, k).reshape(-1, 1).to(times.device) for k in (0, -1))
    rows = times.reshape(-1, times.shape[-1])
    low, high = torch.minimum(first, last), torch.maximum(first, last)
    outside = (rows < low) | (rows > high)
    if bool(outside.any()):
        n, j = torch.nonzero(outside)[0].tolist()
        row, span = min(n, len(rows) - 1), min(n, len(low) - 1)
        raise ValueError(
            f"the times of jumps must lie inside the solve, got {rows[row, j].item():g} for jump {j} of sample {n}, "
            f"which is solved from {first[span].item():g} to {last[span].item():g}; leave it out, or pad with NaN"
        )
    against = (rows.diff(dim=1) * (last - first).sum().sign().to(rows)) <= 0
    if bool(against.any()):
        n, j = torch.nonzero(against)[0].tolist()
        raise ValueError(
            f"the times of jumps must run strictly in the direction of the solve, got {rows[n, j].item():g} before "
            f"{rows[n, j + 1].item():g}; sort them, and make jumps at one time a single jump"
        )


class Grid(NamedTuple):
    """The times of a fixed-step solve with its jumps, in one order."""

    times: Tensor
    """(G,) or (N, G), monotonic."""
    jump: Tensor
    """The number of the jump at each of them, −1 at a time of output, the shape of ``times``."""
    output: Tensor
    """Where the output times are among them, (T,) or (N, T)."""


def grid_with_jumps(times: Tensor, jumps: Jumps, x: Tensor) -> Grid:
    """The output times and the jumps in one order. A jump comes before an output at its time. Reads no values.

    Args:
        times: (T,) or (N, T), monotonic.
        jumps: the jumps.
        x: a state, (N, *S).
    """
    at = jumps.times.to(times)
    if times.ndim != at.ndim:
        times, at = (v.expand(len(x), -1) for v in (times, at))
    padding = torch.isnan(at)
    number = torch.arange(at.shape[-1], device=at.device).expand(at.shape).masked_fill(padding, -1)
    at = torch.where(padding, times[..., -1:].detach(), at)
    both = torch.cat((at, times), -1)
    falling = (times[..., -1:] - times[..., :1]).detach() < 0
    order = torch.where(falling, -both.detach(), both.detach()).argsort(dim=-1, stable=True)
    jump = torch.cat((number, number.new_full(times.shape, -1)), -1).gather(-1, order)
    place = order.argsort(dim=-1)[..., at.shape[-1] :]
    return Grid(both.gather(-1, order), jump, place)


def states_at(grid: Grid, states: list[Tensor]) -> Tensor:
    """The states at the output times, (T, N, *S), out of those at all times of the grid."""
    xs = torch.stack(states)
    if grid.output.ndim == 1:
        return xs[grid.output]
    return xs[grid.output.T, torch.arange(xs.shape[1], device=xs.device)]


def grid_columns(grid: Grid, x: Tensor) -> tuple[Tensor, ...]:
    """The number of each sample's jump, (N,), at one time of the grid after the other."""
    return grid.jump.movedim(-1, 0).reshape(grid.jump.shape[-1], -1).expand(-1, len(x)).unbind()
