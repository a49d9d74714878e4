"""The paper's two one-stage integrators: exponential Euler (Eq. 8) and linearized Euler (Eqs. 12 and 14)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar, exponential_step, linearized_step
from dampode.integrators.base import FixedStep

__all__ = ["ExponentialEuler", "LinearizedEuler"]


@dataclass(frozen=True)
class ExponentialEuler(FixedStep):
    """x_{n+1} = e^{−λh} x_n + h φ_1(−λh) ρ(λ) f(x_n, t_n), Eq. 8.

    Damping is integrated exactly for every λh. f is held constant over a step. Order 1, uniformly in λ for ρ = 1.

    Source: Yang et al. 2020, Eq. 8; Nørsett 1969.
    """

    exact_damping: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step, Eq. 8."""
        return exponential_step(x, *func.parts(t, x), h)


@dataclass(frozen=True)
class LinearizedEuler(FixedStep):
    """x_{n+1} = (1 − λh) x_n + h ρ(λ) f(x_n, t_n): Eq. 12 with ρ = 1, Eq. 14 with ρ = 1 + λ.

    One step of h = 1 is a layer of In-ResNet (Eq. 13) or λ-In-ResNet (Eq. 15). Order 1. The linear part is stable
    for λh in (0, 2).

    Source: Yang et al. 2020, Eqs. 11-15.
    """

    order: ClassVar[int] = 1

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step, Eqs. 12 and 14."""
        return linearized_step(x, *func.parts(t, x), h)
