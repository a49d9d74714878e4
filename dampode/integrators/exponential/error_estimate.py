"""The error estimate of a step of Krogstad's method, and the third derivative of N that it and dense output use."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.exponential_rk import KrogstadStep
from dampode.integrators.step_control import MAX_FACTOR

__all__ = ["CurveChange", "change_of_curve", "error_estimate", "jacobian_growth", "third_difference"]


class CurveChange(NamedTuple):
    """How the curvature of N changed since the last accepted step."""

    share: Tensor
    """g / (1 + g), where g is the length of this step divided by that of the last one, (N, 1, ..., 1)."""
    curve: Tensor
    """The θ² coefficient of N minus the one that the last step predicts, (N, *S)."""


def change_of_curve(curve: Tensor, h: Tensor, last_curve: Tensor, last_h: Tensor) -> CurveChange:
    """Compare the curvature of N over a step with that over the last accepted step.

    Args:
        curve: θ² coefficient of N over the step, (N, *S).
        h: its length, (N, 1, ..., 1), in x's dtype; 0 for samples that are done.
        last_curve: θ² coefficient of N over the last accepted step, (N, *S).
        last_h: its length > 0, (N, 1, ..., 1), in x's dtype.
    """
    growth = (h / last_h).clamp(max=MAX_FACTOR)
    return CurveChange(growth / (1 + growth), torch.addcmul(curve, growth * growth, last_curve, value=-1))


def third_difference(change: CurveChange) -> Tensor:
    """D = h³ N‴ / 6 over a step, from the change of N's curvature, (N, *S). It is 0 where there is no last step."""
    known = change.share < MAX_FACTOR / (1 + MAX_FACTOR)
    return torch.where(known, 2 / 3 * change.share, 0.0) * change.curve


def error_estimate(step: KrogstadStep, n5: Tensor, change: CurveChange, lam: Tensor, h: Tensor) -> Tensor:
    """|x⁺ − x(t+h)| of a step: u h 2φ_2 [ |N_5 − N_4| / 6 + w |D| / 20 ], O(h^4), up to its sign.

    N_4 and N_5 = N(x⁺, t+h) are taken at the same time. So their difference shows how far the stages disagree, but says
    nothing about f(t). D = h³ N‴ / 6 (`third_difference`) depends on f(t). Its weight w = 1 − 0.8 φ_1 is 1 where λh is
    large and 0.2 at λh = 0, where the step integrates a cubic N exactly and only dense output does not. The factor u
    (`jacobian_growth`) is about 1 where ρJ is small beside λ.

    Args:
        step: the step.
        n5: N(x⁺, t+h), (N, *S).
        change: of the curvature of N since the last accepted step.
        lam: λ_n of the step, broadcast to x.
        h: its signed length, (N, 1, ..., 1), in x's dtype.

    Returns:
        The estimate, (N, *S).
    """
    apart = n5 - step.n4
    curve_weight = (step.p1.abs() * -0.8).add_(1).clamp_(min=0.2)
    size = torch.addcmul(apart.abs(), curve_weight * change.share, change.curve.abs(), value=0.2)
    return size.mul_(jacobian_growth(step, apart, lam, h)).mul_(step.hp2.abs()).mul_(1 / 3)


def jacobian_growth(step: KrogstadStep, apart: Tensor, lam: Tensor, h: Tensor) -> Tensor:
    """By how much more an error grows because ρJ opposes the damping: u = (2 + hλ) / (2 + h max(λ − κ, 0)).

    With J = ∂f/∂x, an error of N grows over the step as hφ_2(−h(λ − ρJ)), and not as hφ_2(−hλ). u is about the ratio of
    these, with φ_2(−z) ~ 1 / (2 + z). κ >= 0 is the Rayleigh quotient of ρJ along x⁺ − U_4, the direction in which the
    stages still move: ⟨N_5 − N_4, x⁺ − U_4⟩ / |x⁺ − U_4|². With ρ = 1 + λ, κ may be near λ, and u is then near hλ/2.
    Backward in time u is 1.

    Args:
        step: the step.
        apart: N_5 − N_4, (N, *S).
        lam: λ_n, broadcast to x.
        h: the step's signed length, (N, 1, ..., 1), in x's dtype.

    Returns:
        u >= 1, broadcast to x.
    """
    moved = (step.x - step.u4).reshape(len(apart), -1)
    # squares of states as large as 1e25 or as small as 1e-25 are no float32 numbers
    size = moved.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(moved.dtype).tiny)
    moved.div_(size)
    # products and sums, because autocast would compute vecdot in half precision
    square = (moved * moved.conj()).real.sum(1).clamp_(min=0.5)  # it is 0 or at least 1
    kappa = (apart.reshape(len(apart), -1) / size).mul_(moved.conj()).real.sum(1).div_(square).clamp_(min=0)
    half = h.clamp(min=0).mul_(0.5)
    size_of_lam = lam.abs()
    rest = (size_of_lam - kappa.reshape(h.shape)).clamp_(min=0)
    ratio: Tensor = (half * size_of_lam).add_(1) / (half * rest).add_(1)
    return ratio
