"""The time axis of an adaptive solve, which always runs forward."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TimeAxis"]

_RESOLUTION = 16 * torch.finfo(torch.float64).eps
"""A step is at least this many times as long as the time at which it begins."""

_ROUNDING = 4 * torch.finfo(torch.float64).eps
"""The rounding of a stop's time relative to |t0| + τ is at most so large."""


class TimeAxis(NamedTuple):
    """The time axis of a solve: t = t0 + sign τ, with τ from 0 to ``span``.

    τ = |t − t0| grows whether t grows or falls. All tensors are float64, whatever the dtype of the state: () if the
    samples share their times, else one number per sample.
    """

    t0: Tensor
    """The first time."""
    span: Tensor
    """The length of the solve."""
    sign: float
    """1.0 if t grows, −1.0 if it falls."""
    stop: Tensor
    """Where the present part of the solve ends: at the next stop or at the end, of the shape of ``span``."""
    begin: Tensor
    """Where the present part of the solve begins: at the last stop or at 0."""
    part: tuple[Tensor, Tensor] | None
    """The earliest and the latest time t of the present part; None if the solve has no stop."""
    shortest: Tensor
    """A step of this length is too short to advance t anywhere in the solve."""
    shortest_first: Tensor
    """A step of this length is too short to advance t from t0."""

    @classmethod
    def of(cls, times: Tensor, per_sample: tuple[int, ...], device: torch.device) -> "TimeAxis":
        """The axis of given times.

        Args:
            times: (T,) or (N, T), monotonic in one direction.
            per_sample: the shape of values per sample, N values.
            device: where the tensors are put.

        Returns:
            The axis. Its tensors are () if the samples share their times, else of the shape ``per_sample``.
        """
        values = times.detach().to(torch.float64)
        first, last = values.select(-1, 0), values.select(-1, -1)
        size = torch.stack((torch.maximum(first.abs(), last.abs()), first.abs()))
        shortest = (_RESOLUTION * size).clamp(min=torch.finfo(torch.float64).tiny)
        # one copy to the device instead of four
        numbers = torch.cat((torch.stack((first, (last - first).abs())), shortest)).to(device)
        t0, span, anywhere, begin = numbers.reshape(4, *per_sample if times.ndim == 2 else ()).unbind()
        return cls(
            t0, span, 1.0 if bool((last >= first).all()) else -1.0, span, torch.zeros_like(span), None, anywhere, begin
        )

    def shortest_step(self, tau: Tensor) -> Tensor:
        """A step of this length is too short to advance t and τ from τ, float64.

        t and τ are resolved to a rounding error of |t0| + τ.
        """
        return torch.add(self.shortest_first, tau, alpha=_RESOLUTION)

    def tau(self, times: Tensor) -> Tensor:
        """τ of the given times, (T,) or (N, T), float64."""
        t0 = self.t0.reshape(-1, 1) if times.ndim == 2 else self.t0
        return (times.detach().to(t0) - t0).abs()

    def time(self, tau: Tensor, dtype: torch.dtype) -> Tensor:
        """The time t at τ, in a given dtype, or in the real dtype of a complex one.

        If the solve has stops, t is inside the present part, whose latest time does not belong to it: the field may
        change there.
        """
        t = torch.add(self.t0, tau, alpha=self.sign).to(dtype.to_real() if dtype.is_complex else dtype)
        if self.part is None:
            return t
        low, high = (edge.to(t.dtype) for edge in self.part)
        return torch.minimum(torch.maximum(t, low), torch.nextafter(high, torch.full_like(high, -torch.inf)))

    def until(self, stop: Tensor) -> "TimeAxis":
        """The axis with the next stop of each sample, τ. A part begins where the last one ended."""
        stop = torch.minimum(self.span, stop)
        begin = torch.zeros_like(stop) if self.part is None else torch.where(stop > self.stop, self.stop, self.begin)
        ends = torch.stack([torch.add(self.t0, tau, alpha=self.sign) for tau in (begin, stop)])
        margin = _ROUNDING * (self.t0.abs() + stop)  # τ and t of a stop are rounded
        return self._replace(stop=stop, begin=begin, part=(ends.amin(0) + margin, ends.amax(0) - margin))

    def shaped(self, shape: tuple[int, ...]) -> "TimeAxis":
        """The axis with values per sample in another shape. Values of all samples stay ()."""

        def shaped(value: Tensor) -> Tensor:
            return value.reshape(shape) if value.ndim else value

        part = None if self.part is None else (shaped(self.part[0]), shaped(self.part[1]))
        t0, span, stop, begin, shortest, first = (
            shaped(value) for value in (self.t0, self.span, self.stop, self.begin, self.shortest, self.shortest_first)
        )
        return TimeAxis(t0, span, self.sign, stop, begin, part, shortest, first)
