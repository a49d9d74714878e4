"""The accepted steps of an exponential Adams solve, taken again in segments that the backward pass recomputes."""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential.adams_output import InnerStates
from dampode.integrators.exponential.adams_plan import plan_step, sample_damping
from dampode.integrators.exponential.adams_step import (
    History,
    first_history,
    moved_history,
    restarted_history,
    try_step,
)
from dampode.integrators.exponential.multistep_weights import Nodes
from dampode.integrators.exponential.replay import parts_between_restarts
from dampode.integrators.output_times import scatter_states
from dampode.integrators.recompute import recomputed
from dampode.integrators.shifts import per_sample
from dampode.integrators.splitting import Splitting
from dampode.integrators.stops import Restart
from dampode.integrators.time_axis import TimeAxis
from dampode.integrators.tolerance import Tolerance

__all__ = ["AcceptedStep", "replay"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class AcceptedStep(NamedTuple):
    """A call of f that at least one sample keeps. For the others the step has length 0."""

    nodes: Nodes
    second: Mask
    """The samples for which it is the second evaluation, (N,)."""
    corrects_again: Mask
    """Whether the state is corrected with it, (N,)."""
    accepted: Mask
    """The samples that accept the step, (N,)."""
    slot: Tensor
    """The slot of the new value, (N,)."""
    axis: TimeAxis
    """The time axis, with the stops as they were at this step, on the CPU."""


def replay(
    func: DampedODEFunc,
    splitting: Splitting,
    x: Tensor,
    n1: Tensor,
    inner_tau: Floats,
    steps: list[AcceptedStep | Restart],
    slots: int,
    count: int,
    tol: Tolerance,
    calls: CallCounter,
) -> tuple[Tensor, Tensor]:
    """The states from given steps. Only what each segment begins with is kept.

    Args:
        func: the damped vector field.
        splitting: the splitting at the initial state.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        inner_tau: τ of the output times between the first and the last one, (T − 2,) or (N, T − 2).
        steps: the steps, at least one, and the restarts between them.
        slots: number of slots R.
        count: number of segments; there is at most one per step, and at least one between two restarts.
        tol: tolerance of a step.
        calls: counts the calls of f.

    Returns:
        The states at the inner times, (T − 2, N, *S), NaN at times that no step reached, and the last state, (N, *S).
    """
    varies = not splitting.constant

    def time_of(axis: TimeAxis, tau: Tensor) -> Tensor:
        return per_sample(axis.time(tau.cpu(), x.dtype).to(x.device), x)

    def run(steps: list[AcceptedStep], *kept: Tensor) -> tuple[Tensor, ...]:
        x, values, corrected, value, *states = kept
        # a step without gradients writes into the history
        history = History(x, values.clone(), states[0].clone() if varies else None, corrected, value)
        start = steps[0].nodes.begin
        splitting = Splitting(func, time_of(steps[0].axis, torch.from_numpy(start)), x, calls)
        inner, first = InnerStates(x, inner_tau, start), slots * torch.arange(len(x), device=x.device)
        for nodes, second, again, accepted, slot, axis in steps:
            calls.active = torch.from_numpy(nodes.end > nodes.begin).to(x.device)
            time = axis.time(torch.from_numpy(nodes.end), x.dtype).double().numpy()
            planned = plan_step(nodes, time, axis.sign, sample_damping(splitting, x), second, again, x)
            tried = try_step(splitting, history, planned.plan, tol)
            inner.add(planned, tried, history.x, splitting.lam, accepted)
            every = bool(accepted.all())
            mask = None if every else per_sample(torch.from_numpy(accepted).to(x.device), x)
            history = moved_history(history, tried, splitting.lam, first + slot, mask)
            reached = torch.from_numpy(np.where(accepted, nodes.end, nodes.begin))
            splitting = tried.splitting if every else splitting.at(time_of(axis, reached), history.x)
        states = [] if history.states is None else [history.states]
        return history.x, history.values, history.corrected, history.value, *states, *inner.indexed_states()

    begin = first_history(splitting, x, n1.to(x.dtype), slots)
    indices, inner_states = [], []
    slot = torch.zeros(len(x), dtype=torch.long, device=x.device)  # of each sample's newest value
    kept = [begin.x, begin.values, begin.corrected, begin.value, *(() if begin.states is None else (begin.states,))]
    for part in parts_between_restarts(steps, count):
        if isinstance(part, Restart):
            calls.active = part.samples
            after, t = part.change(kept[0]), time_of(part.axis, part.tau)
            splitting = Splitting(func, t, after, calls)
            history = History(kept[0], kept[1], kept[4] if varies else None, kept[2], kept[3])
            n1 = splitting.nonlinear(t, after).to(x.dtype)
            history = restarted_history(history, splitting, after, n1, slot, part.samples)
            kept = [history.x, history.values, history.corrected, history.value]
            kept += [] if history.states is None else [history.states]
        else:
            slot = part[-1].slot
            *kept, index, state = recomputed(partial(run, part), func, *kept)
            indices.append(index)
            inner_states.append(state)
    return scatter_states(torch.cat(indices), torch.cat(inner_states), inner_tau.shape[-1], x), kept[0]
