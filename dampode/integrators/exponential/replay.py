"""The accepted steps of an adaptive solve, taken again in segments that the backward pass recomputes."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.dense_output import DenseOutput, Interpolant
from dampode.integrators.exponential.error_estimate import change_of_curve, third_difference
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.output_times import scatter_states
from dampode.integrators.recompute import recomputed, segments
from dampode.integrators.shifts import per_sample
from dampode.integrators.splitting import Splitting
from dampode.integrators.stops import Restart
from dampode.integrators.time_axis import TimeAxis

__all__ = ["AcceptedStep", "parts_between_restarts", "replay"]


class AcceptedStep(NamedTuple):
    """A step that at least one sample accepted. Values per sample are (N, 1, ..., 1)."""

    begin: Tensor
    """τ before the step, float64."""
    end: Tensor
    """τ after it, float64; equal to ``begin`` for the other samples."""
    last_h: Tensor
    """The length of each sample's accepted step before this one, in x's dtype."""
    axis: TimeAxis
    """The time axis, with the stops as they were at this step."""


def replay(
    func: DampedODEFunc,
    x: Tensor,
    n1: Tensor,
    inner_tau: Tensor,
    steps: list[AcceptedStep | Restart],
    count: int,
    calls: CallCounter,
) -> tuple[Tensor, Tensor]:
    """The states from given steps of Krogstad's method. Only what each segment begins with is kept.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        inner_tau: τ of the output times between the first and the last one, (T − 2,) or (N, T − 2) float64.
        steps: the steps, at least one, and the restarts between them.
        count: number of segments; there is at most one per step, and at least one between two restarts.
        calls: counts the calls of f.

    Returns:
        The states at the inner times, (T − 2, N, *S), NaN at times that no step reached, and the last state, (N, *S).
    """

    def run(steps: list[AcceptedStep], x: Tensor, n1: Tensor, last_curve: Tensor) -> tuple[Tensor, ...]:
        start = steps[0].begin
        splitting = Splitting(func, steps[0].axis.time(start, x.dtype), x, calls)
        dense = DenseOutput(x, inner_tau, start=start.reshape(-1))
        for begin, end, last_h, axis in steps:
            h, ok = end - begin, end > begin
            calls.active = ok.reshape(-1)
            length, after = h.to(x.dtype.to_real()), axis.time(end, x.dtype)
            signed = axis.sign * length
            step = krogstad_step(splitting, x, n1, (axis.time(begin + 0.5 * h, x.dtype), after), signed)
            if dense.needed:
                cubic = third_difference(change_of_curve(step.curve, length, last_curve, last_h))
                inside = Interpolant(x, n1, step.slope, step.curve, cubic, splitting.lam, signed)
                dense.add(inside, end.reshape(-1))
                last_curve = torch.where(ok, step.curve, last_curve)
            x = torch.where(ok, step.x, x)
            splitting = splitting.at(after, x)
            n1 = torch.where(ok, splitting.nonlinear(after, x), n1)
        return x, n1, last_curve, *dense.indexed_states()

    indices, states, last_curve = [], [], torch.zeros_like(x)
    for part in parts_between_restarts(steps, count):
        if isinstance(part, Restart):
            calls.active = part.samples
            x, t = part.change(x), part.axis.time(per_sample(part.tau, x), x.dtype)
            n1 = torch.where(per_sample(part.samples, x), Splitting(func, t, x, calls).nonlinear(t, x), n1)
        else:
            x, n1, last_curve, index, state = recomputed(partial(run, part), func, x, n1, last_curve)
            indices.append(index)
            states.append(state)
    return scatter_states(torch.cat(indices), torch.cat(states), inner_tau.shape[-1], x), x


Step = TypeVar("Step")


def parts_between_restarts(steps: Sequence[Step | Restart], count: int) -> Iterator[list[Step] | Restart]:
    """The steps in about ``count`` segments of equal length, and the restarts, none of which is inside a segment."""
    for is_restart, group in groupby(steps, lambda step: isinstance(step, Restart)):
        part = list(group)
        if is_restart:
            yield from (step for step in part if isinstance(step, Restart))
        else:
            accepted = [step for step in part if not isinstance(step, Restart)]
            share = math.ceil(count * len(accepted) / len(steps))
            yield from ([accepted[n] for n in numbers] for numbers in segments(len(accepted), share))
