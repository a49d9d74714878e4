"""Gradients with respect to the times of a solve: steps of length 0 that carry the derivative of the exact flow."""

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential_rk import etd2rk_step
from dampode.integrators.sample_times import columns
from dampode.integrators.splitting import Splitting

__all__ = ["with_output_time_gradients", "with_start_time_gradient"]


def with_start_time_gradient(func: DampedODEFunc, x: Tensor, t: Tensor, calls: CallCounter) -> Tensor:
    """The initial state, unchanged in value, with ∂/∂t = −F(x, t).

    The trajectory through x at t is followed to the fixed time t̄, which is t without its gradient. This is one step of
    `ETD2RK` of length t̄ − t: the length is 0 and its derivative is −1. The method has order 2, so first and second
    derivatives are those of the exact flow.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        t: initial time, () or (N,), with gradient.
        calls: counts the calls of f.

    Returns:
        The state, (N, *S).
    """
    t = t.to(x.real).reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t.to(x.real)
    return etd2rk_step(Splitting(func, t, x, calls), x, t, t.detach() - t)


def with_output_time_gradients(func: DampedODEFunc, xs: Tensor, times: Tensor, calls: CallCounter) -> Tensor:
    """The states at the output times, unchanged in value, with ∂x(t)/∂t = F(x(t), t).

    Each state takes one step of `ETD2RK` of length t − t̄, where t̄ is t without its gradient.

    Args:
        func: the damped vector field.
        xs: the states, (T, N, *S).
        times: their times, (T,) or (N, T), with gradient.
        calls: counts the calls of f.

    Returns:
        The states, (T, N, *S).
    """
    steps = zip(xs, columns(times, xs[0]), strict=True)
    return torch.stack(
        [etd2rk_step(Splitting(func, t.detach(), x, calls), x, t.detach(), t - t.detach()) for x, t in steps]
    )
