"""The time axis of an adaptive solve, which always runs forward."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["TimeAxis"]

_RESOLUTION = 16 * torch.finfo(torch.float64).eps
"""A step is at least this many times as long as the time at which it begins."""


class TimeAxis(NamedTuple):
    """The time axis of a solve: t = t0 + sign τ, with τ from 0 to ``span``.

    τ = |t − t0| grows whether t grows or falls. It is float64, whatever the dtype of the state.
    """

    t0: Tensor
    """The first time, () float64."""
    span: Tensor
    """The length of the solve, () float64."""
    sign: float
    """1.0 if t grows, −1.0 if it falls."""
    shortest: Tensor
    """A step of this length is too short to advance t anywhere in the solve, () float64."""
    shortest_first: Tensor
    """A step of this length is too short to advance t from t0, () float64."""

    @classmethod
    def of(cls, times: Tensor, device: torch.device) -> "TimeAxis":
        """The axis of strictly monotonic times (T,), with its tensors on a device."""
        values: list[float] = times.detach().to(torch.float64).tolist()
        first, last = values[0], values[-1]
        tiny = torch.finfo(torch.float64).tiny
        begin, anywhere = (max(_RESOLUTION * size, tiny) for size in (abs(first), max(abs(first), abs(last))))
        # one copy to the device instead of four
        numbers = torch.tensor([first, abs(last - first), anywhere, begin], dtype=torch.float64).to(device)
        t0, span, shortest, shortest_first = numbers.unbind()
        return cls(t0, span, 1.0 if last > first else -1.0, shortest, shortest_first)

    def shortest_step(self, tau: Tensor) -> Tensor:
        """A step of this length is too short to advance t and τ from τ, float64.

        t and τ are resolved to a rounding error of |t0| + τ.
        """
        return torch.add(self.shortest_first, tau, alpha=_RESOLUTION)

    def tau(self, times: Tensor) -> Tensor:
        """τ of the given times, float64."""
        return (times.detach().to(self.t0) - self.t0).abs()

    def time(self, tau: Tensor, dtype: torch.dtype) -> Tensor:
        """The time t at τ."""
        return torch.add(self.t0, tau, alpha=self.sign).to(dtype)
