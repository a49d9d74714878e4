"""SciPy's solvers through torchdiffeq, with times that are not rounded."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["solved_by_scipy"]


class _Clocked:
    """A vector field of the flat state (t − t0, x). It takes its time from the state.

    torchdiffeq rounds the times that SciPy's LSODA gives f to torch's default dtype, which is float32.
    """

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor], t0: Tensor, shape: torch.Size) -> None:
        self._field, self._t0, self._shape = field, t0, shape

    def __call__(self, t: Tensor, clocked: Tensor) -> Tensor:
        """Its derivative, (1, dx/dt)."""
        time = self._t0 + clocked[0].to(self._t0.dtype)
        dx = self._field(time.to(clocked.dtype), clocked[1:].reshape(self._shape))
        return torch.cat((torch.ones_like(clocked[:1]), dx.reshape(-1)))


def solved_by_scipy(
    odeint: Callable[..., Tensor], field: Callable[[Tensor, Tensor], Tensor], x: Tensor, times: Tensor, **settings: Any
) -> Tensor:
    """The states at the times that SciPy reaches, (T, N, *S), x first.

    SciPy interpolates its first state, too. It is replaced by x.

    Args:
        odeint: torchdiffeq's ``odeint`` or ``odeint_adjoint``.
        field: dx/dt at a time () and a state (N, *S).
        x: initial state, (N, *S).
        times: (T,).
        settings: of ``odeint``.
    """
    t0 = times[0].detach()
    clock = (times[:1] - t0).to(x.dtype)  # zero, with the gradient of t0
    begin = torch.cat((clock, x.reshape(-1)))
    clocked = odeint(_Clocked(field, t0, x.shape), begin, times - t0, **settings)
    return torch.cat((x[None], clocked[1:, 1:].reshape(-1, *x.shape)))
