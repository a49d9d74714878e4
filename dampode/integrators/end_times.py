"""Gradients with respect to the times of a solve: steps of length 0 that carry the derivative of the exact flow."""

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.exponential_rk import ETD2RK

CALLS = 2
"""Of f, a time."""


def with_start(func: DampedODEFunc, x: Tensor, t: Tensor) -> Tensor:
    """The state at the value of t of the trajectory that is at x at t: x, with ∂/∂t = −F(x, t).

    It is a step of `ETD2RK` from t over t̄ − t, whose value is 0 and whose derivative is −1 (t̄ is t without gradient).
    The method's order is 2, so first and second derivatives are those of the exact flow.

    Args:
        func: the damped vector field.
        x: state, (N, *S).
        t: time, 0-dim, with gradient.

    Returns:
        The state, (N, *S).
    """
    t = t.to(x)
    return ETD2RK().step(func, x, t, t.detach() - t)


def with_ends(func: DampedODEFunc, xs: Tensor, times: Tensor) -> Tensor:
    """The same states with ∂x(t)/∂t = F(x(t), t), by a step of `ETD2RK` over t − t̄ from each.

    Args:
        func: the damped vector field.
        xs: the states, (T, N, *S).
        times: their times, (T,), with gradient.

    Returns:
        The states, (T, N, *S).
    """
    return torch.stack(
        [ETD2RK().step(func, x, t.detach(), t - t.detach()) for x, t in zip(xs, times.to(xs), strict=True)]
    )
