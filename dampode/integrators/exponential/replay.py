"""The accepted steps of an adaptive solve, taken again in segments that the backward pass computes anew."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.clock import Clock
from dampode.integrators.exponential.dense_output import DenseOutput, Segment, placed
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.recompute import recomputed, segments
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import History, change_of_curve, cubic


class Taken(NamedTuple):
    """A step that at least one sample accepted."""

    begin: Tensor
    """τ before and after it, (N, 1, ..., 1) float64: the same for samples that did not move."""
    end: Tensor
    last: Tensor
    """The length of each sample's last step before it, in x's dtype."""


def replay(
    func: DampedODEFunc, x: Tensor, n1: Tensor, inner: Tensor, clock: Clock, steps: list[Taken], count: int
) -> Tensor:
    """The states from given steps of Krogstad's method, with what ``count`` segments begin with kept.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        inner: the asked times between the first and the last one, as τ, (T − 2,) float64.
        clock: the time axis.
        steps: the steps, at least one.
        count: segments, at most one a step.

    Returns:
        The states, (T, N, *S), x first; NaN at inner times that no step reached.
    """

    def run(numbers: range, x: Tensor, n1: Tensor, curve: Tensor) -> tuple[Tensor, ...]:
        split = Splitting(func, x)
        dense = DenseOutput(x, inner, start=steps[numbers[0]].begin.reshape(-1))
        for begin, end, last in (steps[n] for n in numbers):
            h, ok = end - begin, end > begin
            length, after = h.to(x.dtype), clock.time(end, x.dtype)
            signed = clock.sign * length
            step = krogstad_step(split, x, n1, (clock.time(begin + 0.5 * h, x.dtype), after), signed)
            if dense.wanted:
                bend = cubic(change_of_curve(step.curve, length, History(curve, last, last)))
                dense.add(Segment(x, n1, step.slope, step.curve, bend, split.lam, signed, end.reshape(-1)))
                curve = torch.where(ok, step.curve, curve)
            x = torch.where(ok, step.x, x)
            split = split.at(x)
            n1 = torch.where(ok, split(after, x), n1)
        return x, n1, curve, *dense.found()

    first, places, rows, curve = x, [], [], torch.zeros_like(x)
    for numbers in segments(len(steps), count):
        x, n1, curve, place, row = recomputed(partial(run, numbers), func, x, n1, curve)
        places.append(place)
        rows.append(row)
    return torch.cat((first[None], placed(torch.cat(places), torch.cat(rows), len(inner), x), x[None]))
