"""A cell run over the steps of a batch of sequences."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dampode.damping import Damping
from dampode.integrators import ExponentialEuler
from dampode.sequence.cell import DampedCell, RestState
from dampode.sequence.forgetting import rates
from dampode.sequence.relaxing_gru import relaxing_gru
from dampode.sequence.steps import Steps, last_observed
from dampode.weighting import proportional

__all__ = ["at_last", "run", "run_against_time"]

_PART = 64
"""Steps whose gates are prepared at once: memory that is used again costs less than memory that is new."""


def run(cell: DampedCell, steps: Steps, h0: Tensor) -> Tensor:
    """The states of a cell after each step, (N, T, H); at a step without an observation, the decayed state.

    Every gap begins at the last observation, however many steps without an observation cut it.

    Args:
        cell: the cell.
        steps: the steps.
        h0: the state at the first time, (N, H).
    """
    last = last_observed(steps.observed)
    begin = at_last(steps.times, last, steps.times[:, 0])
    gaps, u = steps.times - begin, at_last(steps.inputs, last)
    if _relaxes(cell):
        return _relaxed(cell, steps, gaps, u, h0)
    h, states = h0, []
    for k in range(gaps.shape[1]):
        before = cell.decay(h, gaps[:, k], u[:, k], begin[:, k])
        after, observed = cell.update(steps.inputs[:, k], before), steps.observed[:, k, None]
        states.append(torch.where(observed, after, before))
        h = torch.where(observed, after, h)
    return torch.stack(states, 1)


def run_against_time(cell: DampedCell, steps: Steps, h0: Tensor) -> Tensor:
    """As `run`, from the last time of each row to its first. The states come in the order of time."""
    length = (~steps.padding).sum(1, keepdim=True)
    number = torch.arange(steps.padding.shape[1], device=length.device).expand_as(steps.padding)
    order = torch.where(steps.padding, number, length - 1 - number)
    times = torch.where(steps.padding, -steps.times[:, :1], -steps.times.gather(1, order))
    turned = Steps(at_last(steps.inputs, order), times, steps.observed.gather(1, order), steps.padding)
    return at_last(run(cell, turned, h0), order)


def at_last(values: Tensor, last: Tensor, first: Tensor | None = None) -> Tensor:
    """The values at the steps ``last``, (N, Q) or (N, Q, F).

    Args:
        values: (N, T) or (N, T, F).
        last: numbers of steps, (N, Q); −1 where there is none.
        first: what stands there then, (N,) or (N, F); None is 0.
    """
    index, none = last.clamp(min=0), last < 0
    if values.ndim == 3:
        index, none = index[:, :, None].expand(-1, -1, values.shape[2]), none[:, :, None]
    fallback = values.new_zeros(()) if first is None else first.to(values.dtype)[:, None]
    return torch.where(none, fallback, values.gather(1, index))


def _relaxes(cell: DampedCell) -> bool:
    """Whether a cell is a GRU that decays to a rest state by a λ that does not depend on the state."""
    return (
        isinstance(cell.field, RestState)
        and isinstance(cell.update, nn.GRUCell)
        and isinstance(cell.integrator, ExponentialEuler)
        and cell.rho is proportional
        and not (isinstance(cell.damping, Damping) and cell.damping.varies)
    )


def _relaxed(cell: DampedCell, steps: Steps, gaps: Tensor, u: Tensor, h0: Tensor) -> Tensor:
    """`run` for a cell that relaxes: the decays and the inputs of the gates are computed for many steps at once."""
    gru, field = cell.update, cell.field
    assert isinstance(gru, nn.GRUCell)
    assert isinstance(field, RestState)
    everything, observed, states = steps.inputs.transpose(0, 1), steps.observed.t(), []
    for begin in range(0, len(everything), _PART):
        part = slice(begin, begin + _PART)
        # autocast may lower the dtype of this product; the loop runs in it
        inputs = linear(everything[part], gru.weight_ih, gru.bias_ih)
        wide = torch.promote_types(inputs.dtype, torch.float32)
        lam = rates(cell.damping, u[:, part], steps.inputs[:, 0]).to(wide)
        decay = -torch.expm1(-lam * gaps[:, part, None].to(wide)).expand(-1, -1, cell.hidden_size)
        weights = (field.value, gru.weight_hh, gru.bias_hh, h0)
        rest, weight, bias, h0 = (value.to(inputs) for value in weights)
        after, h0 = relaxing_gru(inputs, decay.transpose(0, 1).to(inputs), observed[part], rest, weight, bias, h0)
        states.append(after)
    return torch.cat(states).transpose(0, 1)
