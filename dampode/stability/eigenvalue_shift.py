"""The effect of damping on eigenvalues, Eq. 18: the shift, the condition under which it stabilizes, the smallest λ."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative
from dampode.weighting import Weighting, unit, weight_at

__all__ = ["DampingCondition", "critical_damping", "damped_eigenvalues", "damping_condition"]


def damped_eigenvalues(nu: Tensor, lam: float, rho: Weighting = unit) -> Tensor:
    """Eigenvalues of the damped field's Jacobian, Eq. 18: ν̂ = ρ(λ) ν − λ, from those of ∂f/∂x at the same state.

    Both Jacobians are taken at the same state. Eqs. 16 and 17 share an equilibrium x* only if λ x* = 0, so the
    eigenvalues at each field's own equilibrium must be computed there (`find_equilibrium`).

    Args:
        nu: eigenvalues ν of ∂f/∂x, real or complex, any shape.
        lam: damping λ >= 0.
        rho: the weight function.

    Returns:
        ν̂, with the shape and order of nu; detached and on the CPU.

    Raises:
        ValueError: λ is negative or not finite.
        TypeError: nu is not a tensor.

    Source: Yang et al. 2020, Eq. 18.
    """
    require_nonnegative(lam, "λ")
    return weight_at(rho, lam) * _detached(nu) - lam


class DampingCondition(NamedTuple):
    """Eq. 18's condition for Re ν̂ < Re ν, one entry per eigenvalue."""

    bound: Tensor
    """1 + λ / Re ν, which ρ is compared with. If Re ν = 0 it is infinite, or NaN if λ = 0 too."""
    side: Tensor
    """Sign of Re ν. +1: ρ must be below the bound; −1: above it; 0: λ > 0 is enough."""
    holds: Tensor
    """Whether Re ν̂ < Re ν."""


def damping_condition(nu: Tensor, lam: float, rho: Weighting = unit) -> DampingCondition:
    """Eq. 18's condition: damping moves ν to the left, Re ν̂ < Re ν, if and only if (ρ(λ) − 1) Re ν < λ.

    If Re ν > 0 that is ρ < 1 + λ / Re ν, as the paper prints it. If Re ν < 0 it is ρ > 1 + λ / Re ν, because the
    division reverses the inequality. If Re ν = 0 it is λ > 0.

    Args:
        nu: eigenvalues ν of ∂f/∂x, real or complex, any shape.
        lam: damping λ >= 0.
        rho: the weight function.

    Returns:
        The bound, the side and whether the condition holds, each with the shape of nu; detached and on the CPU.

    Raises:
        ValueError: λ is negative or not finite.
        TypeError: nu is not a tensor.

    Source: Yang et al. 2020, Eq. 18 and the equivalence below it, with the sign case the print omits.
    """
    require_nonnegative(lam, "λ")
    nu = _detached(nu)
    real = nu.real if nu.is_complex() else nu
    holds = (weight_at(rho, lam) - 1) * real < lam
    return DampingCondition(1 + lam / real, real.sign(), holds)


def critical_damping(nu: Tensor, rho: Weighting = unit) -> float:
    """The smallest λ above which Eq. 18 is stable, max Re(ρ(λ) ν − λ) < 0; inf if there is no such λ.

    With ρ = 1 it is max(0, max Re ν). With ρ = 1 + λ and a = max Re ν it is a / (1 − a) for 0 < a < 1; for a >= 1
    damping never stabilizes. At the returned λ the abscissa is 0, unless it is already negative at λ = 0. The search
    takes any ρ: a grid of 400 λ from 1e-12 to 1e12 max(1, max Re ν), at most 1e300, then root finding. If ρ grows
    faster than λ, Eq. 18 may become unstable again at a larger λ.

    Args:
        nu: eigenvalues ν of ∂f/∂x at one state, real or complex, any shape, not empty.
        rho: the weight function.

    Raises:
        ValueError: nu is empty or not finite.
        TypeError: nu is not a tensor.

    Source: Yang et al. 2020, Eq. 18.
    """
    nu = _detached(nu)
    if nu.numel() == 0 or not bool(torch.isfinite(nu).all()):
        raise ValueError(f"nu must be finite and not empty, got {nu.numel()} eigenvalues, some of them NaN or infinite")
    real = (nu.real if nu.is_complex() else nu).double()

    def abscissa(lam: float) -> float:
        return float(damped_eigenvalues(real, lam, rho).max())

    if abscissa(0.0) < 0:
        return 0.0
    below = 0.0
    for lam in np.geomspace(1e-12, min(1e12 * max(float(real.max()), 1.0), 1e300), 400).tolist():
        if abscissa(lam) < 0:
            return float(brentq(abscissa, below, lam, xtol=1e-300)) if abscissa(below) > 0 else below
        below = lam
    return math.inf


def _detached(nu: Tensor) -> Tensor:
    """Eigenvalues without a graph, on the CPU."""
    require_instance(nu, Tensor, "nu")
    return nu.detach().cpu()
