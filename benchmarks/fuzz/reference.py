"""The reference of a solve: SciPy in float64, and how far it amplifies a change of the initial state."""

import warnings
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from dampode import DampedODEFunc

__all__ = ["Reference", "reference"]

RTOL = 1e-10
MAX_NUMBERS = 24
MAX_CALLS = 30_000
CHANGE = 1e-6
"""Relative size of the change of the initial state."""


class Reference(NamedTuple):
    """A reference solution."""

    x: Tensor
    """(T, N, *S), float64."""
    condition: Tensor
    """The largest |change of x| up to each time over the change of the initial state, at least 1, (T,)."""


class _TooDear(Exception):  # noqa: N818
    pass


def reference(func: DampedODEFunc, x: Tensor, times: Tensor, stiff: bool) -> Reference | None:
    """The reference at all times, or None where it has too many numbers, takes too many calls or is not finite.

    The whole batch is one system, so that samples may depend on one another.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic times, (T,).
        stiff: whether an implicit method is needed.
    """
    if x.numel() > MAX_NUMBERS:
        return None
    func, x = deepcopy(func).double(), x.detach().clone().double()
    change = CHANGE * (1 + x.abs()) * torch.sign(torch.randn_like(x))
    t = times.detach().double().numpy()
    exact, near = (_solved(func, start, t, stiff) for start in (x, x + change))
    if exact is None or near is None:
        return None
    gap = (near - exact).abs().flatten(1).amax(1) / change.abs().max()
    return Reference(exact, gap.clamp(min=1).cummax(0).values)


def _solved(func: DampedODEFunc, x: Tensor, t: NDArray[np.float64], stiff: bool) -> Tensor | None:
    """SciPy's solution, (T, N, *S), or None."""
    calls = 0

    def rate(time: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        if calls > MAX_CALLS:
            raise _TooDear
        dx: Tensor = func(time, torch.from_numpy(y.copy()).view_as(x))
        return dx.detach().reshape(-1).numpy()

    method = "Radau" if stiff else "DOP853"
    try:
        with torch.no_grad(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            atol = 1e-2 * RTOL
            solution = solve_ivp(rate, (t[0], t[-1]), x.reshape(-1).numpy(), method, t, rtol=RTOL, atol=atol)
    except (_TooDear, ValueError, np.linalg.LinAlgError):
        return None
    if not solution.success or not np.isfinite(solution.y).all():
        return None
    return torch.from_numpy(solution.y.T.copy()).view(len(t), *x.shape)
