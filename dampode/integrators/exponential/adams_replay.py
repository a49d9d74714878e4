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
from dampode.integrators.exponential.adams_step import History, first_history, moved_history, try_step
from dampode.integrators.exponential.multistep_weights import Nodes
from dampode.integrators.output_times import scatter_states
from dampode.integrators.recompute import recomputed, segments
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import Tolerance
from dampode.integrators.time_axis import TimeAxis

__all__ = ["AcceptedStep", "replay"]

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


def replay(
    func: DampedODEFunc,
    splitting: Splitting,
    x: Tensor,
    n1: Tensor,
    inner_tau: NDArray[np.float64],
    axis: TimeAxis,
    steps: list[AcceptedStep],
    count: int,
    tol: Tolerance,
    calls: CallCounter,
) -> Tensor:
    """The states from given steps. Only what each segment begins with is kept.

    Args:
        func: the damped vector field.
        splitting: the splitting at the initial state.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        inner_tau: τ of the output times between the first and the last one, (T − 2,).
        axis: the time axis, on the CPU.
        steps: the steps, at least one.
        count: number of segments; there is at most one per step.
        tol: tolerance of a step.
        calls: counts the calls of f.

    Returns:
        The states, (T, N, *S), x first; NaN at inner times that no step reached.
    """
    varies = func.damping.depends_on_state
    column = (-1, *[1] * (x.ndim - 1))

    def run(numbers: range, *kept: Tensor) -> tuple[Tensor, ...]:
        x, values, corrected, value, *states = kept
        # a step without gradients writes into the history
        history = History(x, values.clone(), states[0].clone() if varies else None, corrected, value)
        splitting = Splitting(func, x, calls)
        inner = InnerStates(x, inner_tau, steps[numbers[0]].nodes.begin)
        for nodes, second, again, accepted, slot in (steps[n] for n in numbers):
            calls.active = torch.from_numpy(nodes.end > nodes.begin).to(x.device)
            damping, time = (
                sample_damping(splitting.lam, varies, x),
                axis.time(torch.from_numpy(nodes.end), torch.float64),
            )
            planned = plan_step(nodes, time.numpy(), axis.sign, damping, second, again, x)
            tried = try_step(splitting, history, planned.plan, tol)
            inner.add(planned, tried, history.x, splitting.lam, accepted)
            every = bool(accepted.all())
            mask = None if every else torch.from_numpy(accepted).to(x.device).reshape(column)
            history = moved_history(history, tried, splitting.lam, slot, mask)
            splitting = tried.splitting if every else splitting.at(history.x)
        states = [] if history.states is None else [history.states]
        return history.x, history.values, history.corrected, history.value, *states, *inner.indexed_states()

    slots = len(steps[0].nodes.times)
    begin = first_history(splitting, x, n1, slots, varies)
    kept = [begin.x, begin.values, begin.corrected, begin.value, *(() if begin.states is None else (begin.states,))]
    indices, inner_states = [], []
    for numbers in segments(len(steps), count):
        *kept, index, state = recomputed(partial(run, numbers), func, *kept)
        indices.append(index)
        inner_states.append(state)
    inner = scatter_states(torch.cat(indices), torch.cat(inner_states), len(inner_tau), x)
    return torch.cat((x[None], inner, kept[0][None]))
