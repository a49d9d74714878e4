"""Step sizes per sample: error norms, the error estimate of the exponential pair, PI control, the first step."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.functional import exponential_step
from dampode.integrators.exponential_rk import KrogstadStep
from dampode.integrators.splitting import Splitting

ORDER = 4  # the estimate of one step is O(h^4)
GROWTH = 10.0  # of a step's length, at most


class Tolerance(NamedTuple):
    """What an error is measured against: atol + rtol |x|, elementwise."""

    rtol: float
    atol: float

    def ratio(self, error: Tensor, size: Tensor) -> Tensor:
        """The root mean square of error / (atol + rtol size) over each sample, (N, 1, ..., 1); above 1 is too much."""
        ratio = (error / (size * self.rtol).add_(self.atol)).reshape(len(error), -1)
        norm: Tensor = torch.linalg.vector_norm(ratio, dim=1) * ratio.shape[1] ** -0.5
        return norm.reshape(-1, *[1] * (error.ndim - 1))


class History(NamedTuple):
    """The last accepted step of every sample: what an estimate of the next one compares with."""

    curve: Tensor
    """θ² coefficient of N over that step, (N, *S)."""
    h: Tensor
    """Its length, (N, 1, ..., 1) float64."""
    ratio: Tensor
    """Its error ratio, (N, 1, ..., 1)."""


def no_history(x: Tensor, h: Tensor) -> History:
    """Before the first step: of an infinitely short one, so that the whole curvature of N counts as error."""
    tiny = torch.full_like(h, torch.finfo(h.dtype).tiny)
    return History(torch.zeros_like(x), tiny, torch.ones_like(h, dtype=x.dtype))


def error_estimate(step: KrogstadStep, n5: Tensor, h: Tensor, past: History) -> Tensor:
    """|x⁺ − x(t+h)| of a step, h 2φ_2 [ |N_5 − N_4| / 6 + w |D| / 20 ], O(h^4).

    N_4 and N_5 = N(x⁺, t+h) sit at one time, so their difference sees how far the stages disagree and is blind to f(t).
    D = h³ N‴ / 6 (`cubic`) sees f(t). Its weight w = 1 − 0.8 φ_1 is 0.2 at
    z = 0, where the step integrates a cubic N exactly and only dense output does not, and 1 where λh is large.

    Args:
        step: the step.
        n5: N(x⁺, t+h), (N, *S).
        h: its length, (N, 1, ..., 1) float64, 0 for samples that are done.
        past: the last accepted step.

    Returns:
        The estimate, (N, *S), >= 0.
    """
    dtype = n5.dtype
    grown, change = _change_of_curve(step.curve, h, past)
    weight = h * grown / (1 + grown) * (1 / 15)
    stages = (n5 - step.n4).abs_().mul_((h * (1 / 3)).to(dtype))
    stiff = (1 - 0.8 * step.p1).clamp_(min=0.2)
    return torch.addcmul(stages, weight.to(dtype) * stiff, change.abs()).mul_(step.p2)


def cubic(curve: Tensor, h: Tensor, past: History) -> Tensor:
    """D = h³ N‴ / 6 over a step, from the change of N's curvature since the last one; 0 where there is none to compare.

    Args:
        curve: θ² coefficient of N over the step, (N, *S).
        h: its length, (N, 1, ..., 1) float64.
        past: the last accepted step.

    Returns:
        D, (N, *S).
    """
    grown, change = _change_of_curve(curve, h, past)
    weight = torch.where(grown < GROWTH, 2 / 3 * grown / (1 + grown), 0.0)
    return weight.to(curve.dtype) * change


def _change_of_curve(curve: Tensor, h: Tensor, past: History) -> tuple[Tensor, Tensor]:
    """The ratio of h to the last step's length, and the θ² coefficient less the one that the last step gives."""
    grown = torch.where(h > 0, h / past.h, 0.0).clamp(max=GROWTH)  # samples that are done have lengths 0 and 0
    return grown, torch.addcmul(curve, (grown * grown).to(curve.dtype), past.curve, value=-1)


def step_factor(ratio: Tensor, ok: Tensor, past: History) -> Tensor:
    """Factor from this step's length to the next one's: PI control, between 0.2 and 10; at most 0.9 after a rejection.

    Args:
        ratio: error ratio of this step; NaN and infinity shorten it tenfold.
        ok: whether it was accepted.
        past: the last accepted step.

    Returns:
        The factor, (N, 1, ..., 1).

    Source: Gustafsson 1991; Hairer & Wanner, Solving ODEs II, Sec. IV.2.
    """
    safe = ratio.nan_to_num(1e8, 1e8).clamp_(1e-8, 1e8)
    accepted = (0.9 * safe ** (-0.7 / ORDER) * past.ratio ** (0.4 / ORDER)).clamp_(0.2, GROWTH)
    return torch.where(ok, accepted, (0.9 * safe ** (-1 / ORDER)).clamp_(0.1, 0.9))


def first_step(remainder: Splitting, x: Tensor, n1: Tensor, probe_time: Tensor, h: Tensor, tol: Tolerance) -> Tensor:
    """A first step from the sizes of x, x' and the change of N over the probe step.

    Args:
        remainder: the split field.
        x: initial state, (N, *S).
        n1: N(x, t0), (N, *S).
        probe_time: t0 plus the signed probe step.
        h: the signed probe step, (N, 1, ..., 1), in x's dtype, from `probe_step`.
        tol: the tolerance.

    Returns:
        Its length > 0, (N, 1, ..., 1).

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.4, with N in the place of f.
    """
    size = x.abs()
    probe = exponential_step(x, remainder.lam, 1.0, n1, h)
    length = h.abs()
    speed = tol.ratio(n1 - remainder.lam * x, size)
    bend = tol.ratio(remainder(probe_time, probe) - n1, size) / length
    return torch.minimum(100 * length, (0.01 / torch.maximum(speed, bend).clamp_(min=1e-15)) ** (1 / ORDER))


def probe_step(lam: Tensor, x: Tensor, n1: Tensor, tol: Tolerance) -> Tensor:
    """A step over which x hardly changes, (N, 1, ..., 1): a hundredth of |x| / |x'|."""
    size = x.abs()
    distance, speed = tol.ratio(x, size), tol.ratio(n1 - lam * x, size)
    return torch.where((distance < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * distance / speed)
