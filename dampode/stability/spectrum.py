"""Spectra of the damped field, Eq. 18."""

from torch import Tensor

from dampode._checks import require_nonnegative
from dampode.weighting import Weighting


def damped_eigenvalues(nu: Tensor, lam: float, rho: Weighting) -> Tensor:
    """Eigenvalues of the damped field's Jacobian, Eq. 18: ν̂ = ρ(λ) ν − λ, from those of ∂f/∂x at the same state.

    The comparison holds at one state. (16) and (17) share an equilibrium x* only where λ x* = 0, so what it says of
    the two fields' own equilibria has to be measured there. Re ν̂ < Re ν holds for ρ < 1 + λ / Re ν where Re ν > 0;
    for Re ν < 0 the inequality turns round.

    Args:
        nu: eigenvalues ν of ∂f/∂x, real or complex, any shape.
        lam: damping λ >= 0.
        rho: the weight function.

    Returns:
        ν̂, shape of nu.

    Raises:
        ValueError: λ is negative or not finite.

    Source: Yang et al. 2020, Eq. 18.
    """
    require_nonnegative(lam, "λ")
    shifted: Tensor = rho(lam) * nu - lam
    return shifted
