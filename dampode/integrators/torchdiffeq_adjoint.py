"""What torchdiffeq's continuous adjoint asks for and how it fails, in words."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dampode.dynamics import DampedODEFunc
from dampode.integrators.base import IntegrationError

__all__ = ["AdjointWatch", "require_digits", "require_whole"]


def require_whole(parameters: Iterable[nn.Parameter]) -> None:
    """Raise if a parameter is sharded: torchdiffeq joins the state and the parameters' gradients in one tensor."""
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return
    from torch.distributed.tensor import DTensor  # a slow import, which fully_shard has made already

    sharded = next((p for p in parameters if isinstance(p, DTensor)), None)
    if sharded is not None:
        raise ValueError(
            "adjoint=True needs whole parameters, got one that is sharded, as fully_shard leaves them, of shape "
            f"{tuple(sharded.shape)}; use adjoint=False, or an integrator with recompute=, which also saves memory"
        )


def require_digits(func: DampedODEFunc, x: Tensor, times: Tensor) -> None:
    """Raise if the continuous adjoint would have no digit of the state left."""
    if not torch.is_grad_enabled():
        return
    with torch.no_grad():
        looked_at = times[:-1].to(x) if func.damping.depends_on_time else times[:1].to(x)
        lam = max(float(func.lam(t, x).max()) for t in looked_at)
        growth = lam * float(times.diff().max())
    digits = -math.log(torch.finfo(x.dtype).eps)
    if growth > digits:
        raise ValueError(
            "adjoint=True re-integrates the state backwards, where damping amplifies by e^{λΔt}: λΔt is "
            f"{growth:.3g} between two times, and above {digits:.0f} no digit of {x.dtype} is left; use adjoint=False, "
            "or an integrator with recompute="
        )


class AdjointWatch:
    """A callback at every step of a backward pass. It raises in words where torchdiffeq would assert.

    Args:
        callback: the user's own callback, if any.
        times: times of the solve, (T,). The backward pass goes from each to the one before.
        max_steps: largest number of steps from one time to the one before; None sets no bound.
    """

    def __init__(self, callback: Callable[..., None] | None, times: Tensor, max_steps: int | None) -> None:
        self._callback, self._max_steps = callback, max_steps
        self._starts = {abs(t) for t in times.tolist()}  # torchdiffeq negates decreasing times
        self._before, self._steps = math.nan, 0

    def __call__(self, t: Tensor, state: tuple[Tensor, ...], dt: Tensor) -> None:
        """Check one step from t."""
        now = float(t)
        if abs(now) in self._starts and now != self._before:
            self._steps = 0
        self._before, self._steps = now, self._steps + 1
        if not all(bool(torch.isfinite(part).all()) for part in state):
            self._fail("NaN or infinity", "")
        if bool(t + dt == t):
            self._fail("a step of length 0", "")
        if self._max_steps is not None and self._steps > self._max_steps:
            self._fail(
                f"more than max_num_steps = {self._max_steps} steps", "raise max_num_steps, loosen rtol and atol, "
            )
        if self._callback is not None:
            self._callback(t, state, dt)

    def _fail(self, got: str, remedy: str) -> None:
        raise IntegrationError(
            f"adjoint=True re-integrates the state backwards, got {got} at t = {self._before:g} of the backward pass, "
            f"where errors grow; {remedy}use adjoint=False, or an integrator with recompute="
        )
