"""Step sizes per sample: the PI controller, the first step, and when to give a sample up."""

import math

import torch
from torch import Tensor

from dampode.functional import exponential_step
from dampode.integrators.splitting import Splitting
from dampode.integrators.tolerance import Tolerance

__all__ = [
    "MAX_FACTOR",
    "MIN_LOG_RATIO",
    "GiveUp",
    "estimated_first_step",
    "log_error_ratio",
    "predictive_factor",
    "probe_step",
    "step_factor",
]

ORDER = 4
"""The error of one step is estimated as O(h^4)."""

MAX_FACTOR = 10.0
"""A step is at most this many times as long as the one before."""

MIN_LOG_RATIO = math.log(1e-4)
"""The controller takes the last error ratio as at least this. A far smaller one says little about the next step."""


def log_error_ratio(ratio: Tensor) -> Tensor:
    """The logarithm of an error ratio, after clamping it to [1e-8, 1e8]. NaN counts as 1e8."""
    return ratio.nan_to_num(1e8, 1e8).clamp_(1e-8, 1e8).log_()


def step_factor(log_ratio: Tensor, accepted: Tensor, last_log_ratio: Tensor) -> Tensor:
    """The length of the next step divided by the length of this one, by PI control.

    It is 0.9 r^{−0.7/4} r_last^{0.4/4} after an accepted step and 0.9 r^{−1/4} after a rejected one. It lies between
    0.1 and 10, and is at most 0.9 after a rejected step.

    Args:
        log_ratio: logarithm of this step's error ratio r, finite, (N, 1, ..., 1).
        accepted: whether this step was accepted, (N, 1, ..., 1).
        last_log_ratio: logarithm of the error ratio of the accepted step before, (N, 1, ..., 1).

    Returns:
        The factor, (N, 1, ..., 1).

    Source: Gustafsson 1991; Hairer & Wanner, Solving ODEs II, Sec. IV.2.
    """
    pi = torch.add(last_log_ratio * (0.4 / ORDER), log_ratio, alpha=-0.7 / ORDER)
    return torch.where(accepted, pi, log_ratio * (-1 / ORDER)).exp_().mul_(0.9).clamp_(0.1, MAX_FACTOR)


def predictive_factor(log_ratio: Tensor, last_log_ratio: Tensor, growth: Tensor) -> Tensor:
    """The length of the next step divided by the length of this one, if error / h^4 goes on to change as it did.

    It is 0.9 r^{−1/4} min(1, g (r_last / r)^{1/4}), where the last step was h / g long. It lies between 0.1 and 10. An
    r_last below 1/100 counts as 1/100.

    Args:
        log_ratio: logarithm of this step's error ratio r, finite, (N, 1, ..., 1).
        last_log_ratio: logarithm of the error ratio r_last of the accepted step before, (N, 1, ..., 1).
        growth: the length of this step divided by the length of the accepted step before, (N, 1, ..., 1).

    Returns:
        The factor, (N, 1, ..., 1).

    Source: Gustafsson 1994, ACM TOMS 20; Hairer & Wanner, Solving ODEs II, Sec. IV.8.
    """
    change = (last_log_ratio.clamp(min=math.log(1e-2)) - log_ratio) / ORDER + growth.log()
    return (change.clamp(max=0.0) - log_ratio / ORDER).exp().mul(0.9).clamp(0.1, MAX_FACTOR)


def probe_step(lam: Tensor, x: Tensor, n1: Tensor, tol: Tolerance) -> Tensor:
    """A step over which x hardly changes: a hundredth of |x| / |x'|, for `estimated_first_step`.

    Args:
        lam: λ, broadcast to x.
        x: initial state, (N, *S).
        n1: the nonlinear part N(x, t0), (N, *S).
        tol: tolerance of a step.

    Returns:
        Its length, (N, 1, ..., 1).
    """
    size = x.abs()
    distance, speed = tol.ratio(x, size), tol.ratio(n1 - lam * x, size)
    return torch.where((distance < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * distance / speed)


def estimated_first_step(
    splitting: Splitting, x: Tensor, n1: Tensor, probe_time: Tensor, h: Tensor, tol: Tolerance
) -> Tensor:
    """The length of the first step, from the sizes of x, x' and the change of N over the probe step.

    Args:
        splitting: the splitting at x.
        x: initial state, (N, *S).
        n1: the nonlinear part N(x, t0), (N, *S).
        probe_time: the time at the end of the probe step, (N, 1, ..., 1).
        h: the signed probe step, (N, 1, ..., 1), in x's dtype, from `probe_step`.
        tol: tolerance of a step.

    Returns:
        Its length > 0, (N, 1, ..., 1).

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.4, with N in the place of f.
    """
    size = x.abs()
    probe = exponential_step(x, splitting.lam, 1.0, n1, h)
    length = h.abs()
    speed = tol.ratio(n1 - splitting.lam * x, size)
    curvature = tol.ratio(splitting.nonlinear(probe_time, probe) - n1, size) / length
    return torch.minimum(100 * length, (0.01 / torch.maximum(speed, curvature).clamp_(min=1e-15)) ** (1 / ORDER))


class GiveUp:
    """Which samples to give up because too many of their steps gave values that are not finite.

    A step may only have been too long: f overflows, or the step leaves the domain of f. Then shorter steps help. They
    do not help if the trajectory itself crosses the edge of the domain: each covers a part of the distance that is
    left before the edge. A sample is given up after 100 non-finite steps within a thousandth of the span. At this pace
    the whole span would take 100,000 steps.

    Args:
        tau: times of the samples, of any shape, float64.
        span: length of the solve.
    """

    LIMIT = 100
    SHARE_OF_SPAN = 1e-3

    def __init__(self, tau: Tensor, span: Tensor) -> None:
        self._window, self._window_start = self.SHARE_OF_SPAN * span, tau
        self._count = torch.zeros_like(tau, dtype=torch.long)
        self._last: Tensor | None = None

    def limited(self, next_h: Tensor, h: Tensor) -> Tensor:
        """The lengths to try next after a step of length h. No length grows in the step after a non-finite step."""
        last, self._last = self._last, None
        return next_h if last is None else torch.where(last, torch.minimum(next_h, h), next_h)

    def given_up(self, nonfinite: Tensor, tau: Tensor) -> Tensor:
        """Count a step from τ that was ``nonfinite`` in some samples, and return the samples to give up."""
        near = tau - self._window_start <= self._window
        self._count = torch.where(near, self._count, 0) + nonfinite
        self._window_start = torch.where(near, self._window_start, tau)
        self._last = nonfinite
        return nonfinite & (self._count >= self.LIMIT)
