"""The calls of f: how many each sample of a solve needed, and the last one."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.fields import VectorField
from dampode.functional import Scalar

__all__ = ["Call", "CallCounter", "CountedField"]


class Call(NamedTuple):
    """One call of f in a solve: where, and the parts of Eq. 4 there. All tensors are detached."""

    t: Tensor
    """Times, () or (N, 1, ..., 1)."""
    x: Tensor
    """States, (N, *S)."""
    parts: tuple[Tensor, Scalar, Tensor]
    """λ, ρ(λ) and f(x, t)."""


class CallCounter:
    """Counts calls of f per sample. `Splitting` reports every call; the solve says which samples need it.

    f always sees the whole batch. A call counts for the samples that are still being solved.

    Args:
        x: a state with N samples, (N, *S).
    """

    def __init__(self, x: Tensor) -> None:
        self.nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        """The calls so far, (N,)."""
        self.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        """The samples that the next calls count for, (N,)."""
        self.last: Call | None = None
        """The last call with a state of x's shape that is no tensor of a torch.func transform."""
        self._shape = x.shape

    def add(self, t: Scalar, x: Tensor, lam: Tensor, weight: Scalar, fx: Tensor) -> None:
        """Count one call, f(x, t) = ``fx``, and keep it."""
        self.nfe += self.active
        transformed = not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x)
        if x.shape == self._shape and isinstance(t, Tensor) and not transformed:
            rho = weight.detach() if isinstance(weight, Tensor) else weight
            self.last = Call(t.detach(), x.detach(), (lam.detach(), rho, fx.detach()))


class CountedField(VectorField):
    """A vector field that counts its calls through this object, whoever else calls f at the same time.

    Args:
        f: the vector field.
    """

    def __init__(self, f: VectorField) -> None:
        super().__init__()
        self.f = f
        self.calls = 0

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        self.calls += 1
        fx: Tensor = self.f(t, x)
        return fx

    def breaks(self) -> Tensor | None:
        """Those of f."""
        return self.f.breaks()
