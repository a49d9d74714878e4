"""The splitting of Eq. 4 that exponential and implicit methods use: x' = −λ_n x + N(x, t), λ_n fixed during a step."""

from copy import copy

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.call_counter import CallCounter

__all__ = ["Splitting"]


class Splitting:
    """The linear part −λ_n x and the nonlinear part N(x, t) = ρ(λ) f(x, t) + (λ_n − λ) x.

    Here λ = λ(t, x) and λ_n = λ(t_n, x_n). The sum −λ_n x + N is Eq. 4 for any λ_n. So a method keeps its
    classical order where λ depends on the state or on time. Where it depends on neither, λ is computed once, here, and
    N = ρ f.

    Args:
        func: the damped vector field.
        t: the time t_n at which λ is taken, a number, () or (N, 1, ..., 1).
        x: the state x_n at which λ is taken, (N, *S).
        calls: counts the calls of f; None counts nothing.

    Raises:
        ValueError: λ does not broadcast to the state. Calls raise what `DampedODEFunc.field` raises.
        TypeError: in a call, f changes the state's dtype outside autocast.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """

    def __init__(self, func: DampedODEFunc, t: Scalar, x: Tensor, calls: CallCounter | None = None) -> None:
        lam = func.lam(t, x)
        self._func = func
        self._calls = calls
        self.constant = not func.damping.varies
        """Whether λ_n is λ in the whole solve."""
        self._weight = func.weight(lam, x)
        self.lam = lam
        """λ_n, broadcast to x."""

    def nonlinear(self, t: Scalar, x: Tensor) -> Tensor:
        """The nonlinear part N(x, t), (N, *S). It calls f once."""
        if self.constant:
            lam, weight, fx = self.lam, self._weight, self._func.field(t, x)
        else:
            lam, weight, fx = self._func.parts(t, x)
        if self._calls is not None:
            self._calls.add(t, x, lam, weight, fx)
        rho_f = _weighted(weight, fx)
        return rho_f if self.constant else torch.addcmul(rho_f, self.lam - lam, x)

    def has_negative_damping(self, x: Tensor) -> Tensor:
        """Whether λ_n of a sample is negative or NaN anywhere, (N, 1, ..., 1)."""
        bad = (~(self.lam.real >= 0)).expand_as(x).reshape(len(x), -1).any(1)
        per_sample: Tensor = bad.reshape(-1, *[1] * (x.ndim - 1))
        return per_sample

    def at(self, t: Scalar, x: Tensor) -> "Splitting":
        """The splitting at another time and state. It is the same object where λ depends on neither."""
        return self if self.constant else Splitting(self._func, t, x, self._calls)

    def with_constant_damping(self) -> tuple["Splitting", Tensor | None]:
        """A copy in which λ_n is a constant for autograd, and the change l = λ_n − (its value), or None.

        l is 0 in value and carries the derivative of λ_n; it is None where λ depends on neither state nor time. The
        nonlinear part is the copy's nonlinear part plus l x. No derivative of the copy's nonlinear part leads back
        through λ_n to earlier steps.
        """
        if self.constant:
            return self, None
        fixed = copy(self)
        fixed.lam = self.lam.detach()
        return fixed, self.lam - fixed.lam


def _weighted(weight: Scalar, fx: Tensor) -> Tensor:
    """ρ f. Where ρ is the number 1 this is f itself, which saves a pass over it."""
    return fx if isinstance(weight, float) and weight == 1.0 else weight * fx
