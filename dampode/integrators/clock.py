"""The time axis of an adaptive solve."""

from typing import NamedTuple

import torch
from torch import Tensor


class Clock(NamedTuple):
    """The time axis of a solve: t = t0 + sign τ, τ in [0, span]."""

    t0: Tensor
    """() float64."""
    span: Tensor
    """() float64."""
    sign: float
    shortest: Tensor
    """A step too short to advance t, () float64."""

    @classmethod
    def of(cls, times: Tensor, device: torch.device) -> "Clock":
        """The axis of strictly monotonic times (T,), its tensors on a device."""
        ticks: list[float] = times.detach().to(torch.float64).tolist()
        first, last = ticks[0], ticks[-1]
        info = torch.finfo(torch.float64)
        shortest = max(16 * info.eps * max(abs(first), abs(last)), info.tiny)
        t0, span, least = torch.tensor([first, abs(last - first), shortest], dtype=torch.float64).to(device).unbind()
        return cls(t0, span, 1.0 if last > first else -1.0, least)

    def tau(self, times: Tensor) -> Tensor:
        """The τ of times, float64."""
        return (times.detach().to(self.t0) - self.t0).abs()

    def time(self, tau: Tensor, dtype: torch.dtype) -> Tensor:
        """The time t at τ."""
        return torch.add(self.t0, tau, alpha=self.sign).to(dtype)
