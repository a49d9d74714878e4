"""The accepted steps of an adaptive solve, taken again in segments that the backward pass computes anew."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.dense_output import DenseOutput, Segment, placed
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.segments import recomputed, segments
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import History, cubic


class Taken(NamedTuple):
    """A step that at least one sample accepted."""

    h: Tensor
    """Its length, (N, 1, ..., 1) float64; 0 for samples that did not move."""
    begin: Tensor
    """|t − t0| before and after it, (N, 1, ..., 1) float64."""
    end: Tensor
    last: Tensor
    """The length of each sample's last step before it, likewise."""


def replay(func: DampedODEFunc, x: Tensor, times: Tensor, steps: list[Taken], count: int) -> Tensor:
    """The states at ``times`` from given steps of Krogstad's method, with what ``count`` segments begin with kept.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        steps: the steps, at least one.
        count: segments, at most one a step.

    Returns:
        The states, (T, N, *S), x first; NaN at inner times that no step reached.
    """
    clock: list[float] = times.detach().to(torch.float64).tolist()
    t0, sign = clock[0], 1.0 if clock[-1] > clock[0] else -1.0
    inner = torch.tensor([abs(t - t0) for t in clock[1:-1]], dtype=torch.float64, device=x.device)

    def time(tau: Tensor) -> Tensor:
        t: Tensor = t0 + sign * tau
        return t.to(x.dtype)

    def run(numbers: range, x: Tensor, n1: Tensor, curve: Tensor) -> tuple[Tensor, ...]:
        split = Splitting(func, x)
        dense = DenseOutput(x, inner, start=steps[numbers[0]].begin.reshape(-1))
        for h, begin, end, last in (steps[n] for n in numbers):
            ok = h > 0
            signed = (sign * h).to(x.dtype)
            step = krogstad_step(split, x, n1, (time(begin + 0.5 * h), time(end)), signed)
            if dense.wanted:
                bend = cubic(step.curve, h, History(curve, last, last))
                dense.add(Segment(x, n1, step.slope, step.curve, bend, split.lam, signed, end.reshape(-1)))
                curve = torch.where(ok, step.curve, curve)
            x = torch.where(ok, step.x, x)
            split = split.at(x)
            n1 = torch.where(ok, split(time(end), x), n1)
        return x, n1, curve, *dense.found()

    first, places, rows = x, [], []
    n1, curve = Splitting(func, x)(time(steps[0].begin), x), torch.zeros_like(x)
    for numbers in segments(len(steps), count):
        x, n1, curve, place, row = recomputed(partial(run, numbers), func.parameters(), x, n1, curve)
        places.append(place)
        rows.append(row)
    return torch.cat((first[None], placed(torch.cat(places), torch.cat(rows), len(inner), x), x[None]))
