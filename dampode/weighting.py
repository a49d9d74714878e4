"""The weight function ρ of Eq. 4, and the two limits that Eq. 9 requires of it.

In the whole package ``rho`` is the function ρ and ``weight`` is its value ρ(λ).

`one_plus` meets both limits: ρ → 1 as λ → 0 (the ResNet limit) and ρ/λ → 1 as λ → ∞ (the CNN limit). `unit` meets only
the first. With `unit`, Eq. 8 tends to 0 as λ → ∞. `proportional` meets only the second.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["Limits", "Weighting", "limits", "one_plus", "proportional", "unit", "weight_at"]

T = TypeVar("T", float, Tensor)

Weighting = Callable[[Any], Any]
"""The type of ρ: it takes λ, a float or a tensor, and returns a float or a tensor that broadcasts like λ."""


def unit(lam: float | Tensor) -> float:
    """ρ(λ) = 1, the first choice of Sec. 3.3 (In-ResNet).

    Args:
        lam: λ, a float or a tensor.

    Returns:
        The number 1.0, also for a tensor. It broadcasts like λ and costs no kernel.

    Source: Yang et al. 2020, Sec. 3.3, above Eq. 11.
    """
    return 1.0


def one_plus(lam: T) -> T:
    """ρ(λ) = 1 + λ, the second choice of Sec. 3.3 (λ-In-ResNet).

    Args:
        lam: λ, a float or a tensor.

    Returns:
        1 + λ, of lam's type.

    Source: Yang et al. 2020, Sec. 3.3, above Eq. 14.
    """
    return 1 + lam


def proportional(lam: T) -> T:
    """ρ(λ) = λ: x' = λ (f − x), a leaky integrator with the time constant 1/λ that tends to f.

    Of the limits of Eq. 9 it meets the second alone: as λ → 0 the state stands still.

    Args:
        lam: λ, a float or a tensor.

    Returns:
        λ itself.
    """
    return lam


def weight_at(rho: Weighting, lam: float) -> float:
    """ρ(λ) of one number λ. As in a solve, ρ gets a tensor, here 0-dim and in float64.

    Args:
        rho: the weight function.
        lam: λ, a number.

    Returns:
        ρ(λ), detached.

    Raises:
        ValueError: ρ(λ) is not one number.
    """
    at = torch.tensor(lam, dtype=torch.float64, device="cpu")
    weight = torch.as_tensor(rho(at), dtype=torch.float64, device="cpu").detach()
    if weight.numel() != 1:
        raise ValueError(f"ρ must give one number for one λ, got shape {tuple(weight.shape)} at λ = {lam:g}")
    return float(weight)


class Limits(NamedTuple):
    """Which limits of Eq. 9 a weight function meets."""

    residual: bool
    """ρ(λ) → 1 as λ → 0+: Eq. 8 recovers the ResNet."""
    non_residual: bool
    """ρ(λ) / λ → 1 as λ → ∞: Eq. 8 recovers the CNN."""


def limits(rho: Weighting) -> Limits:
    """Test a weight function against Eq. 9 at λ = 1e-12 and λ = 1e12, with relative tolerance 1e-6.

    Args:
        rho: the weight function, called with 0-dim float64 tensors.

    Returns:
        Which limits hold.

    Source: Yang et al. 2020, Eq. 9.
    """
    near, far = 1e-12, 1e12
    return Limits(
        residual=math.isclose(weight_at(rho, near), 1.0, rel_tol=1e-6),
        non_residual=math.isclose(weight_at(rho, far) / far, 1.0, rel_tol=1e-6),
    )
