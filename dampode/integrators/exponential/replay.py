"""The accepted steps of an adaptive solve, taken again in segments that the backward pass recomputes."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential.dense_output import DenseOutput, Interpolant
from dampode.integrators.exponential.error_estimate import change_of_curve, third_difference
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.output_times import scatter_states
from dampode.integrators.recompute import recomputed, segments
from dampode.integrators.splitting import Splitting
from dampode.integrators.time_axis import TimeAxis

__all__ = ["AcceptedStep", "replay"]


class AcceptedStep(NamedTuple):
    """A step that at least one sample accepted. Values per sample are (N, 1, ..., 1)."""

    begin: Tensor
    """τ before the step, float64."""
    end: Tensor
    """τ after it, float64; equal to ``begin`` for the other samples."""
    last_h: Tensor
    """The length of each sample's accepted step before this one, in x's dtype."""


def replay(
    func: DampedODEFunc,
    x: Tensor,
    n1: Tensor,
    inner_tau: Tensor,
    axis: TimeAxis,
    steps: list[AcceptedStep],
    count: int,
    calls: CallCounter,
) -> tuple[Tensor, Tensor]:
    """The states from given steps of Krogstad's method. Only what each segment begins with is kept.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        inner_tau: τ of the output times between the first and the last one, (T − 2,) or (N, T − 2) float64.
        axis: the time axis.
        steps: the steps, at least one.
        count: number of segments; there is at most one per step.
        calls: counts the calls of f.

    Returns:
        The states at the inner times, (T − 2, N, *S), NaN at times that no step reached, and the last state, (N, *S).
    """

    def run(numbers: range, x: Tensor, n1: Tensor, last_curve: Tensor) -> tuple[Tensor, ...]:
        start = steps[numbers[0]].begin
        splitting = Splitting(func, axis.time(start, x.dtype), x, calls)
        dense = DenseOutput(x, inner_tau, start=start.reshape(-1))
        for begin, end, last_h in (steps[n] for n in numbers):
            h, ok = end - begin, end > begin
            calls.active = ok.reshape(-1)
            length, after = h.to(x.dtype), axis.time(end, x.dtype)
            signed = axis.sign * length
            step = krogstad_step(splitting, x, n1, (axis.time(begin + 0.5 * h, x.dtype), after), signed)
            if dense.needed:
                cubic = third_difference(change_of_curve(step.curve, length, last_curve, last_h))
                lam, tau = splitting.lam, end.reshape(-1)
                dense.add(Interpolant(x, n1, step.slope, step.curve, cubic, lam, signed, tau))
                last_curve = torch.where(ok, step.curve, last_curve)
            x = torch.where(ok, step.x, x)
            splitting = splitting.at(after, x)
            n1 = torch.where(ok, splitting.nonlinear(after, x), n1)
        return x, n1, last_curve, *dense.indexed_states()

    indices, states, last_curve = [], [], torch.zeros_like(x)
    for numbers in segments(len(steps), count):
        x, n1, last_curve, index, state = recomputed(partial(run, numbers), func, x, n1, last_curve)
        indices.append(index)
        states.append(state)
    return scatter_states(torch.cat(indices), torch.cat(states), inner_tau.shape[-1], x), x
