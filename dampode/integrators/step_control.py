"""Step sizes per sample: error norms, the error estimate of the exponential pair, PI control, the first step."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.functional import exponential_step
from dampode.integrators.exponential_rk import KrogstadStep
from dampode.integrators.splitting import Splitting

ORDER = 4  # the estimate of one step is O(h^4)
GROWTH = 10.0  # of a step's length, at most
FLOOR = math.log(1e-4)  # of a past step's log ratio: one far below the tolerance says little about the next


class Tolerance(NamedTuple):
    """What an error is measured against: atol + rtol |x|, elementwise."""

    rtol: float
    atol: float

    def ratio(self, error: Tensor, size: Tensor) -> Tensor:
        """The root mean square of error / (atol + rtol size) over each sample, (N, 1, ..., 1); above 1 is too much."""
        root = math.sqrt(error[0].numel())
        ratio = error / (size * (root * self.rtol)).add_(root * self.atol)
        norm: Tensor = torch.linalg.vector_norm(ratio.reshape(len(error), -1), dim=1)
        return norm.reshape(-1, *[1] * (error.ndim - 1))


class History(NamedTuple):
    """The last accepted step of every sample: what an estimate of the next one compares with."""

    curve: Tensor
    """θ² coefficient of N over that step, (N, *S)."""
    h: Tensor
    """Its length > 0, (N, 1, ..., 1), in x's dtype."""
    log_ratio: Tensor
    """Logarithm of its error ratio, (N, 1, ..., 1)."""


def no_history(x: Tensor) -> History:
    """Before the first step: of an infinitely short one, so that the whole curvature of N counts as error."""
    per_sample = torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return History(torch.zeros_like(x), per_sample + torch.finfo(x.dtype).tiny, per_sample)


class Change(NamedTuple):
    """How N's curvature changed since the last step."""

    share: Tensor
    """g / (1 + g), with g the ratio of this step's length to the last one's, (N, 1, ..., 1)."""
    curve: Tensor
    """The θ² coefficient less the one that the last step gives, (N, *S)."""


def change_of_curve(curve: Tensor, h: Tensor, past: History) -> Change:
    """Compare N's curvature over a step with the last accepted step's.

    Args:
        curve: θ² coefficient of N over the step, (N, *S).
        h: its length, (N, 1, ..., 1), in x's dtype; 0 for samples that are done.
        past: the last accepted step.
    """
    grown = (h / past.h).clamp(max=GROWTH)
    return Change(grown / (1 + grown), torch.addcmul(curve, grown * grown, past.curve, value=-1))


def error_estimate(step: KrogstadStep, n5: Tensor, change: Change, lam: Tensor, h: Tensor) -> Tensor:
    """|x⁺ − x(t+h)| of a step, u h 2φ_2 [ |N_5 − N_4| / 6 + w |D| / 20 ], O(h^4), up to its sign.

    N_4 and N_5 = N(x⁺, t+h) sit at one time, so their difference sees how far the stages disagree and is blind to f(t).
    D = h³ N‴ / 6 (`cubic`) sees f(t). Its weight w = 1 − 0.8 φ_1 is 0.2 at z = 0, where the step integrates a cubic N
    exactly and only dense output does not, and 1 where λh is large. u (`left_undamped`) is about 1 where ρJ is small
    beside λ.

    Args:
        step: the step.
        n5: N(x⁺, t+h), (N, *S).
        change: of N's curvature since the last accepted step.
        lam: λ_n of the step, broadcast to x.
        h: its signed length, (N, 1, ..., 1), in x's dtype.

    Returns:
        The estimate, (N, *S).
    """
    apart = n5 - step.n4
    stiff = (step.p1 * -0.8).add_(1).clamp_(min=0.2)
    size = torch.addcmul(apart.abs(), stiff * change.share, change.curve.abs(), value=0.2)
    return size.mul_(left_undamped(step, apart, lam, h)).mul_(step.hp2).mul_(1 / 3)


def left_undamped(step: KrogstadStep, apart: Tensor, lam: Tensor, h: Tensor) -> Tensor:
    """How much more of an error is left where ρJ undoes the damping, u = (2 + hλ) / (2 + h max(λ − κ, 0)).

    An error of N grows over the step as hφ_2(−h(λ − ρJ)) and not as hφ_2(−hλ); u is about their ratio, with φ_2(−z) ~
    1 / (2 + z). κ >= 0 is the Rayleigh quotient of ρJ along x⁺ − U_4, the direction in which the stages still move:
    ⟨N_5 − N_4, x⁺ − U_4⟩ / |x⁺ − U_4|². With ρ ~ λ it may be near λ, and u near hλ/2. Backward in time u is 1.

    Args:
        step: the step.
        apart: N_5 − N_4, (N, *S).
        lam: λ_n, broadcast to x.
        h: the step's signed length, (N, 1, ..., 1), in x's dtype.

    Returns:
        u >= 1, broadcast to x.
    """
    moved = (step.x - step.u4).reshape(len(apart), -1)
    # products and sums, not vecdot, which autocast would turn into half precision
    square = (moved * moved).sum(1).clamp_(min=torch.finfo(moved.dtype).tiny)
    gain = (apart.reshape(len(apart), -1) * moved).sum(1).div_(square).clamp_(min=0)
    half = h.clamp(min=0).mul_(0.5)
    rest = (lam - gain.reshape(h.shape)).clamp_(min=0)
    ratio: Tensor = (half * lam).add_(1) / (half * rest).add_(1)
    return ratio


def cubic(change: Change) -> Tensor:
    """D = h³ N‴ / 6 over a step, (N, *S), from the change of N's curvature; 0 where there is none to compare."""
    known = change.share < GROWTH / (1 + GROWTH)
    return torch.where(known, 2 / 3 * change.share, 0.0) * change.curve


def logarithm(ratio: Tensor) -> Tensor:
    """Logarithm of an error ratio, finite: between 1e-8 and 1e8, which NaN counts as."""
    return ratio.nan_to_num(1e8, 1e8).clamp_(1e-8, 1e8).log_()


def step_factor(log_ratio: Tensor, ok: Tensor, past: Tensor) -> Tensor:
    """Factor from this step's length to the next one's: PI control, between 0.1 and 10; at most 0.9 after a rejection.

    0.9 r^{−0.7/4} r_past^{0.4/4} after an accepted step, 0.9 r^{−1/4} after a rejected one.

    Args:
        log_ratio: logarithm of this step's error ratio r, finite.
        ok: whether it was accepted.
        past: logarithm of the last accepted step's.

    Returns:
        The factor, (N, 1, ..., 1).

    Source: Gustafsson 1991; Hairer & Wanner, Solving ODEs II, Sec. IV.2.
    """
    accepted = torch.add(past * (0.4 / ORDER), log_ratio, alpha=-0.7 / ORDER)
    return torch.where(ok, accepted, log_ratio * (-1 / ORDER)).exp_().mul_(0.9).clamp_(0.1, GROWTH)


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
