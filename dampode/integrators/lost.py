"""Attempts that are not finite: shorter steps after them, and an end where these do not help."""

import torch
from torch import Tensor

LIMIT = 100
SHARE = 1e-3


class Lost:
    """Which samples lost an attempt to values that are not finite, and how many since they last moved on.

    A step may only have been too long, as where f overflows, or lies at the edge of what it is defined on: shorter ones
    move on. At a boundary that the trajectory crosses they do not, each being a part of the way that is left. A sample
    is given up that loses 100 attempts within a thousandth of the span: at this pace all of it would take 100,000.

    Args:
        tau: times of the samples, of any shape, float64.
        span: length of the solve.
    """

    def __init__(self, tau: Tensor, span: Tensor) -> None:
        self._near, self._mark = SHARE * span, tau
        self._count = torch.zeros_like(tau, dtype=torch.long)
        self._last: Tensor | None = None

    def held(self, wished: Tensor, h: Tensor) -> Tensor:
        """The lengths to try next after an attempt of length h: none grows straight after a lost attempt."""
        last, self._last = self._last, None
        return wished if last is None else torch.where(last, torch.minimum(wished, h), wished)

    def hopeless(self, lost: Tensor, tau: Tensor) -> Tensor:
        """Count an attempt at τ that some samples ``lost``; which of them to give up."""
        here = tau - self._mark <= self._near
        self._count = torch.where(here, self._count, 0) + lost
        self._mark = torch.where(here, self._mark, tau)
        self._last = lost
        return lost & (self._count >= LIMIT)
