"""The split of Eq. 4 that exponential methods step: x' = −λ_n x + N(x, t), λ_n frozen at the start of the step."""

from copy import copy

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar


class Splitting:
    """N(x, t) = ρ(λ(x)) f(x, t) + (λ_n − λ(x)) x with λ_n = λ(x_n).

    The sum −λ_n x + N is Eq. 4 for any λ_n, so a method keeps its classical order where λ depends on the state. Where
    it does not, λ is computed once, here, and N = ρ f.

    Args:
        func: the damped vector field.
        x: the state λ is frozen at, (N, *S).

    Raises:
        ValueError: λ does not broadcast to the state; in a call, what `DampedODEFunc.field` refuses.
        TypeError: in a call, f changes the state's dtype outside autocast.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor) -> None:
        lam = func.lam(x)
        self._func = func
        self._frozen = not func.damping.depends_on_state
        self._weight = func.weight(lam, x)
        self.lam = lam
        """λ_n, broadcast to x."""

    def __call__(self, t: Scalar, x: Tensor) -> Tensor:
        """N(x, t), (N, *S)."""
        if self._frozen:
            return _weighted(self._weight, self._func.field(t, x))
        lam, weight, fx = self._func.parts(t, x)
        return torch.addcmul(_weighted(weight, fx), self.lam - lam, x)

    def undamped(self, x: Tensor) -> Tensor:
        """Whether a sample's λ_n is negative or NaN anywhere, (N, 1, ..., 1)."""
        bad = (~(self.lam >= 0)).expand_as(x).reshape(len(x), -1).any(1)
        per_sample: Tensor = bad.reshape(-1, *[1] * (x.ndim - 1))
        return per_sample

    def at(self, x: Tensor) -> "Splitting":
        """The same field split at another state: itself where λ does not depend on the state."""
        return self if self._frozen else Splitting(self._func, x)

    def shallow(self) -> tuple["Splitting", Tensor | None]:
        """A twin with λ_n constant, and l = λ_n − its value where λ depends on the state: N is the twin's N + l x.

        No derivative of the twin's N leads back through λ_n to the steps before.
        """
        if self._frozen:
            return self, None
        twin = copy(self)
        twin.lam = self.lam.detach()
        return twin, self.lam - twin.lam


def _weighted(weight: Scalar, fx: Tensor) -> Tensor:
    """ρ f, without a pass over f where ρ is the number 1."""
    return fx if isinstance(weight, float) and weight == 1.0 else weight * fx
