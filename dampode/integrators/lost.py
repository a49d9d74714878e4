"""Attempts that are not finite: which samples are held up by them for good."""

import torch
from torch import Tensor

LIMIT = 50
SHARE = 1e-3


class Lost:
    """How many attempts of every sample were not finite since it last moved on by a thousandth of the span.

    At a boundary of the state beyond which f is not finite, shorter steps go on for ever, each a part of the way that
    is left. Where a step was only too long, as for an f that overflows, they move on. A sample is given up after 50: at
    this pace the span would take 50,000 such attempts, and as many others.

    Args:
        tau: times of the samples, of any shape, float64.
        span: length of the solve.
    """

    def __init__(self, tau: Tensor, span: Tensor) -> None:
        self._near, self._mark = SHARE * span, tau
        self._count = torch.zeros_like(tau, dtype=torch.long)

    def hopeless(self, lost: Tensor, tau: Tensor) -> Tensor:
        """Count an attempt, made at τ, where it was ``lost``; whether a sample is given up now."""
        here = tau - self._mark <= self._near
        self._count = torch.where(here, self._count, 0) + lost
        self._mark = torch.where(here, self._mark, tau)
        return lost & (self._count >= LIMIT)
