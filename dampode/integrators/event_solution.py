"""The result of a solve with events: where each sample ended, and the events on its way."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dampode.integrators.event_search import EventRecord
from dampode.integrators.solution import Status

__all__ = ["EventSolution", "collected"]


@dataclass(frozen=True)
class EventSolution:
    """Where each sample ended, and the events on its way."""

    t: Tensor
    """The time at which each sample ended, (N,) float64: that of its last event if it had as many as asked for, else
    t_span[1]."""
    x: Tensor
    """The state there, (N, *S). At an event it is the state before the map."""
    ended: Tensor
    """Whether the sample ended with an event, (N,) bool. If not, it had fewer events than asked for."""
    found: Tensor
    """How many events each sample had, (N,) int64."""
    times: Tensor
    """The times of the events, (E, N) float64, E being the largest number of them; NaN where a sample had fewer."""
    states: Tensor
    """The states at the events, before the map, (E, N, *S); NaN where a sample had fewer."""
    which: Tensor
    """The number of the event function that crossed 0, (E, N) int64; −1 where a sample had fewer events."""
    nfe: Tensor
    """Calls of f that each sample needed, (N,) int64."""
    status: tuple[Status, ...]
    """How the solve of each sample ended, N statuses."""


def collected(records: list[EventRecord], found: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The times, states and numbers of all events, as `EventSolution` holds them.

    Args:
        records: the events, in the order in which they were found.
        found: how many events each sample had, (N,).
        x: a state, (N, *S).
    """
    shape = (int(found.max()), len(x))
    times = torch.full(shape, torch.nan, dtype=torch.float64, device=x.device)
    states, which = x.new_full((*shape, *x.shape[1:]), torch.nan), torch.full_like(times, -1, dtype=torch.long)
    for record in records:
        sample = torch.nonzero(record.samples)[:, 0]
        place = (record.number[sample], sample)
        times, states = times.index_put(place, record.t[sample]), states.index_put(place, record.x[sample])
        which = which.index_put(place, record.which[sample])
    return times, states, which
