"""Inputs u(t) between observations: piecewise constant, piecewise linear, and cubic with backward differences."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dampode._observations import Observations, require_observations

__all__ = ["Held", "Hermite", "Linear", "Path", "breaks_in", "merged_breaks", "require_cover"]

_ROUNDING = 16.0
"""In units of the dtype's eps: how far a time may lie outside of the span of a path, by rounding."""


class Path(nn.Module, ABC):
    """u(t) from observations, one path per sample. A subclass says how u runs between them.

    The observations are data, not weights: they move with the module from device to device, and are no part of its
    ``state_dict``. Gradients flow to the values and to t.

    Args:
        times: of the observations, (T,) for all samples or (N, T) for each sample, increasing. NaN at the end of a row
            pads it.
        values: (N, T, C), or (1, T, C) for all samples. NaN where a channel is not observed: the channel then runs from
            its own observation before to its own observation after. Values at padding are ignored.

    Raises:
        ValueError: times do not increase, NaN stands before a time, the shapes do not fit, a value is infinite, a
            channel of a sample is never observed, or its channels have no time in common.
        TypeError: an argument is no floating tensor.
    """

    times: Tensor
    first: Tensor
    """The start of the span, where all channels have been observed, (N,)."""
    last: Tensor
    """The end of the span, (N,)."""
    _grid: Tensor
    _knots: Tensor
    _coefficients: Tensor

    def __init__(self, times: Tensor, values: Tensor) -> None:
        super().__init__()
        require_observations(times, values)
        seen = Observations.of(times, values)
        first = seen.time(seen.first).amax(1)
        pieces, last = self._fit(seen)
        _require_span(first, last)
        buffers = {
            "times": times,
            "first": first,
            "last": last,
            "_grid": seen.grid,
            "_knots": seen.time(seen.before.clamp(min=0)),
            "_coefficients": torch.stack(pieces, 2),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @abstractmethod
    def _fit(self, seen: Observations) -> tuple[list[Tensor], Tensor]:
        """The pieces of the path and its end.

        Returns:
            The coefficients of (t − knot)^k, k = 0, 1, ..., each (N, T, C), where the knot of a channel is its last
            observation; and the last time of the span, (N,).
        """

    @property
    def breaks(self) -> Tensor:
        """The times at which u or one of its derivatives jumps, in the shape of ``times``."""
        return self.times

    def forward(self, t: float | Tensor) -> Tensor:
        """u(t). At a time at which u jumps this is the value after the jump.

        Args:
            t: a number, (), or one time per sample, (N,) or (N, 1, ..., 1).

        Returns:
            (N, C); NaN outside of the span.

        Raises:
            ValueError: t has another number of samples than the path.
        """
        return self._value(t, derivative=False)

    def derivative(self, t: float | Tensor) -> Tensor:
        """u'(t), (N, C), with t as `forward` takes it. At a time at which u' jumps this is the value after the jump."""
        return self._value(t, derivative=True)

    def _value(self, t: float | Tensor, derivative: bool) -> Tensor:
        """u(t) or u'(t)."""
        t = self._per_sample(t)
        # compared in t's dtype: the time of an observation is not before the observation by rounding
        grid, first, last = (value.detach().to(t.dtype) for value in (self._grid, self.first, self.last))
        end = torch.searchsorted(grid, last[:, None])
        place = torch.searchsorted(grid.expand(len(t), -1).contiguous(), t.detach()[:, None].contiguous(), right=True)
        piece = torch.minimum(place, end).sub(1).clamp(min=0)[:, 0]
        sample = torch.arange(len(t), device=t.device) if len(grid) > 1 else torch.zeros_like(piece)
        coefficients = list(self._coefficients[sample, piece].unbind(1))
        distance = (t[:, None] - self._knots[sample, piece]).to(coefficients[0].dtype)
        if derivative:
            coefficients = [k * c for k, c in enumerate(coefficients)][1:] or [torch.zeros_like(distance)]
        value = coefficients.pop()
        while coefficients:
            value = torch.addcmul(coefficients.pop(), distance, value)
        size = torch.where(torch.isfinite(grid), grid, 0.0).abs().amax(1)
        slack = _ROUNDING * torch.finfo(t.dtype).eps * size
        inside = (t >= first - slack) & (t <= last + slack)
        return torch.where(inside[:, None], value, torch.nan)

    def _per_sample(self, t: float | Tensor) -> Tensor:
        """The times, one per sample: as many as the path has samples, or as t has."""
        if not isinstance(t, Tensor):
            t = torch.tensor(t, dtype=self._grid.dtype, device=self._grid.device)
        n = len(self._grid)
        if t.numel() == 1:
            return t.reshape(1).expand(n)
        if t.numel() != len(t) or n not in (1, len(t)):
            raise ValueError(
                f"a path takes one time for all samples, (), or one per sample, (N,) or (N, 1, ..., 1): it has {n} "
                f"samples, t is {tuple(t.shape)}"
            )
        return t.reshape(-1)


class Held(Path):
    """u holds its last observation: piecewise constant, and after the last time constant for ever.

    This is the input of doses, switches and commands. u jumps at every observation; u' is 0 between them.

    See `Path` for the arguments. Each channel needs one observation.
    """

    def _fit(self, seen: Observations) -> tuple[list[Tensor], Tensor]:
        """The last value."""
        return [seen.value(seen.before)], torch.full_like(seen.grid[:, 0], torch.inf)


class Linear(Path):
    """u is linear from observation to observation. u' is piecewise constant.

    See `Path` for the arguments. u ends at the last time at which all channels are known.
    """

    def _fit(self, seen: Observations) -> tuple[list[Tensor], Tensor]:
        """The last value and the slope to the next one."""
        return [seen.value(seen.before), seen.slope(seen.before, seen.after)], seen.time(seen.last).amin(1)


class Hermite(Path):
    """u is cubic from observation to observation, with a continuous derivative, and depends on no later observation.

    The derivative at an observation is the slope from the observation before it, and at the first one the slope to the
    second. So u(t) depends on the past and on the end of its own piece only. Controlled differential equations need
    this of an input that arrives while they run.

    See `Path` for the arguments. u ends at the last time at which all channels are known.

    Source: Morrill et al. 2021, Neural controlled differential equations for online prediction tasks.
    """

    def _fit(self, seen: Observations) -> tuple[list[Tensor], Tensor]:
        """The cubic with u' = m at the knot and u' = s at the next one, where s is the slope between them."""
        s = seen.slope(seen.before, seen.after)
        earlier = seen.earlier()
        m = torch.where(earlier < 0, s, seen.slope(earlier, seen.before))
        length = seen.length(seen.before, seen.after)
        return [seen.value(seen.before), m, 2 * (s - m) / length, (m - s) / length**2], seen.time(seen.last).amin(1)


def breaks_in(module: nn.Module) -> Tensor | None:
    """The breaks of all paths in a module, as `merged_breaks` gives them; None if it has no path."""
    return merged_breaks(*(path.breaks for path in _paths(module)))


def merged_breaks(*breaks: Tensor | None) -> Tensor | None:
    """Breaks of several parts of a vector field in one order; None if there are none.

    Args:
        breaks: (J,) or (N, J) padded with NaN, or None.

    Returns:
        (J,), or (N, J), increasing, where NaN at its end pads a row. float64. Reads no values.

    Raises:
        ValueError: two parts have different numbers of samples.
    """
    rows = [row.detach().to(torch.float64) for row in breaks if row is not None]
    if not rows:
        return None
    rows = [row[0] if row.ndim == 2 and len(row) == 1 else row for row in rows]
    numbers = {len(row) for row in rows if row.ndim == 2}
    if len(numbers) > 1:
        raise ValueError(f"the breaks of a field must have the same samples, got {sorted(numbers)} samples")
    merged = torch.cat([row.expand(*numbers, -1) for row in rows], -1).sort(-1).values
    repeated = torch.nn.functional.pad(merged.diff(dim=-1) == 0, (1, 0))
    distinct: Tensor = torch.where(repeated, torch.nan, merged).sort(-1).values
    return distinct


def require_cover(module: nn.Module, begin: Tensor, end: Tensor) -> None:
    """Raise unless the paths in a module span the times of a solve.

    Args:
        module: a vector field, or anything else that may hold paths.
        begin: one end of the solve, () or (N,).
        end: the other end. Either may be the later one.

    Raises:
        ValueError: a path begins later or ends earlier.
    """
    for path in _paths(module):
        dtype = min(begin.dtype, path.first.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        low, high = torch.minimum(begin, end).to(path.first.device, dtype), torch.maximum(begin, end)
        low, high, first, last = torch.broadcast_tensors(
            low, high.to(low), path.first.detach().to(dtype), path.last.detach().to(dtype)
        )
        outside = torch.nonzero((low < first) | (high > last)).flatten()
        if len(outside):
            n = int(outside[0])
            raise ValueError(
                f"a path must span the solve: sample {n} is solved on [{low[n].item():g}, {high[n].item():g}], its "
                f"{type(path).__name__} path is known on [{first[n].item():g}, {last[n].item():g}]; give it a value at "
                "both ends, or shorten the solve"
            )


def _paths(module: nn.Module) -> Iterator[Path]:
    """The paths in a module."""
    return (part for part in module.modules() if isinstance(part, Path))


def _require_span(first: Tensor, last: Tensor) -> None:
    """Raise unless there is a time at which all channels of a sample are known."""
    apart = torch.nonzero(first > last).flatten()
    if len(apart):
        n = int(apart[0])
        raise ValueError(
            f"the channels of a path must have a time in common: in sample {n} one begins at {first[n].item():g}, "
            f"after another has ended at {last[n].item():g}; give it a value earlier, or take Held"
        )
