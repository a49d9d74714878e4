"""The accepted steps of an adaptive solve, taken again in segments that the backward pass computes anew."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dampode.dynamics import DampedODEFunc
from dampode.integrators.dense_output import DenseOutput, Segment, placed
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.segments import segments
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import History, cubic, no_history


class Taken(NamedTuple):
    """A step that at least one sample accepted."""

    h: Tensor
    """Its length, (N, 1, ..., 1) float64; 0 for samples that did not move."""
    begin: Tensor
    """|t − t0| before and after it, (N, 1, ..., 1) float64."""
    end: Tensor


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

    def run(x: Tensor, n1: Tensor, past: History, numbers: range) -> tuple[Tensor, Tensor, History, Tensor, Tensor]:
        split = Splitting(func, x)
        dense = DenseOutput(x, inner, start=steps[numbers[0]].begin.reshape(-1))
        for h, begin, end in (steps[n] for n in numbers):
            ok = h > 0
            signed = (sign * h).to(x.dtype)
            step = krogstad_step(split, x, n1, (time(begin + 0.5 * h), time(end)), signed)
            if dense.wanted:
                bend = cubic(step.curve, h, past)
                dense.add(Segment(x, n1, step.slope, step.curve, bend, split.lam, signed, end.reshape(-1)))
            x = torch.where(ok, step.x, x)
            split = split.at(x)
            n1 = torch.where(ok, split(time(end), x), n1)
            past = History(torch.where(ok, step.curve, past.curve), torch.where(ok, h, past.h), past.ratio)
        return x, n1, past, *dense.found()

    first, places, rows = x, [], []
    n1, past = Splitting(func, x)(time(steps[0].begin), x), no_history(x, steps[0].h)
    for numbers in segments(len(steps), count):
        x, n1, past, place, row = checkpoint(run, x, n1, past, numbers, use_reentrant=False)
        places.append(place)
        rows.append(row)
    return torch.cat((first[None], placed(torch.cat(places), torch.cat(rows), len(inner), x), x[None]))
