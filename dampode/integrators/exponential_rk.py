"""Exponential Runge-Kutta methods of orders 2 to 4 with a fixed step: damping exactly, f to high order.

They solve x' = −λ x + N(x, t) with the nonlinear part N = ρ(λ) f. If λ depends on the state or on time, see
`Splitting`. The formulas use z = −hλ, φ_k = φ_k(z) and φ_{k,i} = φ_k(c_i z). At λ = 0 each method is an ordinary
Runge-Kutta method.

| method | calls of f per step | order | order uniform in λ, ρ = 1 |
|---|---|---|---|
| `ETD2RK` | 2 | 2 | 2 |
| `HochbruckOstermann3` | 3 | 3 | 3 |
| `Krogstad4` | 4 | 4 | 3 |
| `HochbruckOstermann4` | 5 | 4 | 4 |

With ρ = 1 + λ the nonlinear part is as stiff as the linear one. Every explicit method then has an order of about 1
until h ρ Lip(f) is small. If ρ Lip(f) <= λ, `ExponentialEuler` and `ETD2RK` amplify no error, whatever hλ; the others
may.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar, phis
from dampode.integrators.base import FixedStep
from dampode.integrators.splitting import Splitting

__all__ = [
    "ETD2RK",
    "HochbruckOstermann3",
    "HochbruckOstermann4",
    "Krogstad4",
    "KrogstadStep",
    "etd2rk_step",
    "krogstad_step",
]


@dataclass(frozen=True)
class ETD2RK(FixedStep):
    """x⁺ = U + h φ_2 (N(U, t+h) − N_1), U = e^z x + h φ_1 N_1. Order 2, uniformly in λ for ρ = 1.

    Source: Cox & Matthews 2002, Exponential time differencing for stiff systems, Eq. 22.
    """

    exact_damping: ClassVar[bool] = True
    order: ClassVar[int] = 2
    stiff_order: ClassVar[int] = 2

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step."""
        return etd2rk_step(Splitting(func, t, x), x, t, h)


def etd2rk_step(splitting: Splitting, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
    """One step of `ETD2RK` from x at t, with the splitting at x; (N, *S). It calls f twice."""
    e, p1, p2, _ = phis(_argument(splitting.lam, h, x))
    n1 = splitting.nonlinear(t, x)
    u = torch.addcmul(e * x, h * p1, n1)
    return torch.addcmul(u, h * p2, splitting.nonlinear(t + h, u) - n1)


@dataclass(frozen=True)
class HochbruckOstermann3(FixedStep):
    """Three stages at c = 0, 1/2, 2/3. Order 3, uniformly in λ for ρ = 1.

    U_2 = e^{z/2} x + (h/2) φ_{1,2} N_1, U_3 = e^{2z/3} x + h [(2/3) φ_{1,3} N_1 + (8/9) φ_{2,3} (N_2 − N_1)],
    x⁺ = e^z x + h [φ_1 N_1 + (3/2) φ_2 (N_3 − N_1)].

    The uniform order is that of the absolute error. Where x ~ f/λ, the error relative to |x| has order 2 with a large
    constant. A method with a stage at t + h is better there.

    Source: Hochbruck & Ostermann 2005, Explicit exponential Runge-Kutta methods, SIAM J. Numer. Anal., Sec. 5.2.
    """

    exact_damping: ClassVar[bool] = True
    order: ClassVar[int] = 3
    stiff_order: ClassVar[int] = 3

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step."""
        splitting = Splitting(func, t, x)
        z = _argument(splitting.lam, h, x)
        powers = phis(torch.stack((z / 2, 2 / 3 * z, z)))
        (e2, e3, e), (p12, p13, p1), (_, p23, p2) = (p.unbind() for p in powers[:3])
        n1 = splitting.nonlinear(t, x)
        u2 = torch.addcmul(e2 * x, h / 2 * p12, n1)
        n2 = splitting.nonlinear(t + h / 2, u2)
        u3 = torch.addcmul(torch.addcmul(e3 * x, 2 / 3 * h * p13, n1), 8 / 9 * h * p23, n2 - n1)
        n3 = splitting.nonlinear(t + 2 / 3 * h, u3)
        return torch.addcmul(torch.addcmul(e * x, h * p1, n1), 1.5 * h * p2, n3 - n1)


class KrogstadStep(NamedTuple):
    """A step of Krogstad's method, with the quadratic N_1 + θ slope + θ² curve by which it approximates N."""

    x: Tensor
    """x⁺, (N, *S)."""
    u4: Tensor
    """The last stage, at the time of x⁺, (N, *S)."""
    n4: Tensor
    """N at the last stage, (N, *S)."""
    slope: Tensor
    """The θ coefficient of N, (N, *S)."""
    curve: Tensor
    """The θ² coefficient of N, (N, *S)."""
    p1: Tensor
    """φ_1(z), broadcast to x."""
    hp2: Tensor
    """h φ_2(z), broadcast to x."""


def krogstad_step(splitting: Splitting, x: Tensor, n1: Tensor, times: tuple[Scalar, Scalar], h: Scalar) -> KrogstadStep:
    """One step of Krogstad's method from x, with N_1 = N(x, t) given. It calls f three times.

    Args:
        splitting: the splitting at x.
        x: state, (N, *S).
        n1: N(x, t), (N, *S).
        times: t + h/2 and t + h.
        h: the step, a number or one number per sample, (N, 1, ..., 1), in x's dtype.

    Returns:
        x⁺ and what an error estimate and dense output need.

    Source: Krogstad 2005, Generalized integrating factor methods for stiff PDEs, Eq. 51.
    """
    z = _argument(splitting.lam, h, x)
    e, p1, p2, p3 = phis(torch.stack((z / 2, z)))
    hp1, hp2, hp3 = h * p1, h * p2, h * p3[1]
    middle, end = times
    u2 = torch.addcmul(e[0] * x, hp1[0], n1, value=0.5)
    n2 = splitting.nonlinear(middle, u2)
    n3 = splitting.nonlinear(middle, torch.addcmul(u2, hp2[0], n2 - n1))
    free = torch.addcmul(e[1] * x, hp1[1], n1)  # exact for a constant N
    u4 = torch.addcmul(free, hp2[1], n3 - n1, value=2)
    n4 = splitting.nonlinear(end, u4)
    curve = 2 * (n1 + n4 - (n2 + n3))
    slope = n4 - n1 - curve
    new = torch.addcmul(torch.addcmul(free, hp2[1], slope), hp3, curve, value=2)
    return KrogstadStep(new, u4, n4, slope, curve, p1[1], hp2[1])


@dataclass(frozen=True)
class Krogstad4(FixedStep):
    """Four stages at c = 0, 1/2, 1/2, 1. Order 4. Uniformly in λ for ρ = 1 it is about 3, with a small constant.

    U_2 = e^{z/2} x + (h/2) φ_{1,2} N_1, U_3 = U_2 + h φ_{2,2} (N_2 − N_1),
    U_4 = e^z x + h φ_1 N_1 + 2h φ_2 (N_3 − N_1), and x⁺ integrates the quadratic through N_1, (N_2 + N_3)/2 and N_4:
    x⁺ = e^z x + h [φ_1 N_1 + φ_2 (−3N_1 + 2N_2 + 2N_3 − N_4) + 4 φ_3 (N_1 − N_2 − N_3 + N_4)].

    Source: Krogstad 2005, Generalized integrating factor methods for stiff PDEs, Eq. 51.
    """

    exact_damping: ClassVar[bool] = True
    order: ClassVar[int] = 4
    stiff_order: ClassVar[int] = 3

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step."""
        splitting = Splitting(func, t, x)
        return krogstad_step(splitting, x, splitting.nonlinear(t, x), (t + h / 2, t + h), h).x


@dataclass(frozen=True)
class HochbruckOstermann4(FixedStep):
    """Five stages at c = 0, 1/2, 1/2, 1, 1/2. Order 4, uniformly in λ for ρ = 1.

    U_2, U_3 as in `Krogstad4`; U_4 = e^z x + h φ_1 N_1 + h φ_2 (N_2 + N_3 − 2N_1);
    U_5 = e^{z/2} x + h [(1/2) φ_{1,5} N_1 + a (N_2 + N_3 − 2N_1) + (φ_{2,5}/4 − a) (N_4 − N_1)] with
    a = φ_{2,5}/2 − φ_{3,4} + φ_{2,4}/4 − φ_{3,5}/2;
    x⁺ = e^z x + h [φ_1 N_1 + (4φ_3 − φ_2) (N_4 − N_1) + (4φ_2 − 8φ_3) (N_5 − N_1)].

    Source: Hochbruck & Ostermann 2005, Explicit exponential Runge-Kutta methods, SIAM J. Numer. Anal., Eq. 5.19.
    """

    exact_damping: ClassVar[bool] = True
    order: ClassVar[int] = 4
    stiff_order: ClassVar[int] = 4

    def step(self, func: DampedODEFunc, x: Tensor, t: Scalar, h: Scalar) -> Tensor:
        """One step."""
        splitting = Splitting(func, t, x)
        z = _argument(splitting.lam, h, x)
        powers = phis(torch.stack((z / 2, z)))
        (e2, e), (p12, p1), (p22, p2), (p32, p3) = (p.unbind() for p in powers)
        n1 = splitting.nonlinear(t, x)
        u2 = torch.addcmul(e2 * x, h / 2 * p12, n1)
        n2 = splitting.nonlinear(t + h / 2, u2)
        n3 = splitting.nonlinear(t + h / 2, torch.addcmul(u2, h * p22, n2 - n1))
        free = torch.addcmul(e * x, h * p1, n1)
        pair = torch.add(n2 + n3, n1, alpha=-2)
        rise = splitting.nonlinear(t + h, torch.addcmul(free, h * p2, pair)) - n1
        a = p22 / 2 - p3 + p2 / 4 - p32 / 2
        u5 = torch.addcmul(torch.addcmul(u2, h * a, pair), h * (p22 / 4 - a), rise)
        n5 = splitting.nonlinear(t + h / 2, u5)
        return torch.addcmul(torch.addcmul(free, h * (4 * p3 - p2), rise), h * (4 * p2 - 8 * p3), n5 - n1)


def _argument(lam: Tensor, h: Scalar, x: Tensor) -> Tensor:
    """The argument z = −hλ in x's dtype, in the shape to which λ and h broadcast."""
    return (lam * -h).to(x.dtype)
