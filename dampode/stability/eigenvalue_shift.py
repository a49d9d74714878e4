"""What damping does to a spectrum, Eq. 18: the shift, the condition under which it stabilizes, the λ that suffices."""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative
from dampode.weighting import Weighting, unit, weight_at


def damped_eigenvalues(nu: Tensor, lam: float, rho: Weighting = unit) -> Tensor:
    """Eigenvalues of the damped field's Jacobian, Eq. 18: ν̂ = ρ(λ) ν − λ, from those of ∂f/∂x at the same state.

    The comparison holds at one state. (16) and (17) share an equilibrium x* only where λ x* = 0, so what it says of
    the two fields' own equilibria has to be measured there (`find_equilibrium`).

    Args:
        nu: eigenvalues ν of ∂f/∂x, real or complex, any shape.
        lam: damping λ >= 0.
        rho: the weight function.

    Returns:
        ν̂, shape and order of nu, so by descending real part where nu is; detached and on the CPU.

    Raises:
        ValueError: λ is negative or not finite.
        TypeError: nu is no tensor.

    Source: Yang et al. 2020, Eq. 18.
    """
    require_nonnegative(lam, "λ")
    return weight_at(rho, lam) * _detached(nu) - lam


class DampingCondition(NamedTuple):
    """Eq. 18's condition for Re ν̂ < Re ν, one entry an eigenvalue."""

    bound: Tensor
    """1 + λ / Re ν, which ρ is compared with; where Re ν = 0, infinite, or NaN if λ = 0."""
    side: Tensor
    """Sign of Re ν. +1: ρ must be below the bound; −1: above it; 0: λ > 0 is enough."""
    holds: Tensor
    """Whether Re ν̂ < Re ν."""


def damping_condition(nu: Tensor, lam: float, rho: Weighting = unit) -> DampingCondition:
    """Eq. 18's condition: damping moves ν to the left, Re ν̂ < Re ν, if and only if (ρ(λ) − 1) Re ν < λ.

    That is ρ < 1 + λ / Re ν where Re ν > 0, as the paper prints it; ρ > 1 + λ / Re ν where Re ν < 0, since the division
    turns the inequality round; and λ > 0 where Re ν = 0.

    Args:
        nu: eigenvalues ν of ∂f/∂x, real or complex, any shape.
        lam: damping λ >= 0.
        rho: the weight function.

    Returns:
        The bound, the side and whether the condition holds, each of nu's shape; detached and on the CPU.

    Raises:
        ValueError: λ is negative or not finite.
        TypeError: nu is no tensor.

    Source: Yang et al. 2020, Eq. 18 and the equivalence below it, with the sign case the print omits.
    """
    require_nonnegative(lam, "λ")
    nu = _detached(nu)
    real = nu.real if nu.is_complex() else nu
    holds = (weight_at(rho, lam) - 1) * real < lam
    return DampingCondition(1 + lam / real, real.sign(), holds)


def critical_damping(nu: Tensor, rho: Weighting = unit) -> float:
    """The smallest λ at which Eq. 18 turns stable, max Re(ρ(λ) ν − λ) < 0 just above it; inf where there is none.

    With ρ = 1 it is max(0, max Re ν). With ρ = 1 + λ it is a / (1 − a) for 0 < a = max Re ν < 1, and there is none for
    a >= 1: damping then never stabilizes. At the λ returned itself the abscissa is 0, unless λ = 0 already has it
    negative. Any ρ is searched on a grid of 400 λ from 1e-12 to 1e12 max(1, max Re ν), at most 1e300. One that outgrows
    λ may turn Eq. 18 unstable again.

    Args:
        nu: eigenvalues ν of ∂f/∂x at one state, real or complex, any shape, not empty.
        rho: the weight function.

    Raises:
        ValueError: nu is empty or not finite.
        TypeError: nu is no tensor.

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
