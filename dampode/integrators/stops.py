"""The stops of an adaptive solve: times inside it at which a sample ends a step exactly and starts anew."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.event_search import EventSearch
from dampode.integrators.jumps import Jumps, jumped
from dampode.integrators.shifts import per_sample, shifted
from dampode.integrators.time_axis import TimeAxis

__all__ = ["Restart", "Stops"]


class Restart(NamedTuple):
    """Samples that start anew."""

    samples: Tensor
    """Which samples these are, (N,)."""
    tau: Tensor
    """τ of all samples, (N,) float64."""
    axis: TimeAxis
    """The time axis from there to their next stops."""
    change: Callable[[Tensor], Tensor]
    """From the states before, (N, *S), to the states after. Other samples keep theirs."""


class Stops:
    """The jumps of a solve, together with the times at which its vector field breaks.

    Times are τ = |t − t0| in float64, (N, K) for K stops; infinity where a sample has none. A break is a jump that
    changes no state.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: the times of the solve, (T,) or (N, T) without padding.
        jumps: the jumps; None if there are none.
        calls: counts the calls of f.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None, calls: CallCounter) -> None:
        self._func, self._calls = func, calls
        self._jumps = Jumps(times.new_empty(0)) if jumps is None else jumps
        self.axis = TimeAxis.of(times, (len(x), *[1] * (x.ndim - 1)), x.device)
        breaks = func.breaks()
        self._given = breaks is not None or jumps is not None
        inner = self._tau(self._jumps.times, len(x))
        outer = inner[:, :0] if breaks is None else self._tau(breaks, len(x))
        span = self.axis.span.reshape(-1, 1)
        outer = torch.where((outer > 0) & (outer < span), outer, torch.inf)
        self._n_jumps = inner.shape[1]
        self._left = torch.cat((inner, outer), 1)
        self.events: EventSearch | None = None
        """The search for events, whose samples stop there too."""

    @property
    def any(self) -> bool:
        """Whether there may be stops."""
        return self._given or self.events is not None

    def at_start(self, x: Tensor) -> Tensor:
        """The initial state after the jumps at the first time, (N, *S)."""
        if not self._left.shape[1]:
            return x
        restart = self.reached(x.new_zeros(len(x), dtype=torch.float64), x.new_ones(len(x), dtype=torch.bool))
        return x if restart is None else restart.change(x)

    def next(self) -> Tensor:
        """τ of each sample's next stop, infinity if there is none, (N,)."""
        none = self._left.new_full((len(self._left), 1), torch.inf)
        known = torch.cat((self._left, none), 1).amin(1)
        return known if self.events is None else torch.minimum(known, self.events.stop)

    def reached(self, tau: Tensor, sound: Tensor) -> Restart | None:
        """What happens to the samples that are at their stops. None if none is.

        Args:
            tau: τ of the samples, (N,).
            sound: the samples that have not failed, (N,).
        """
        due = (self._left <= tau[:, None]) & sound[:, None]
        samples, events = due.any(1), self.events
        if events is not None:
            samples = samples | ((events.stop <= tau) & sound)
        if not bool(samples.any()):
            return None
        self._left = self._left.masked_fill(due, torch.inf)
        jump = self._jump(due[:, : self._n_jumps])
        if events is None:
            return Restart(samples, tau, self.axis, jump)
        _, event = events.reached(tau, sound)

        def change(x: Tensor) -> Tensor:
            x = jump(event(x))
            events.note_signs(x.detach(), tau, samples)
            return x

        return Restart(samples, tau, self.axis, change)

    def _jump(self, due: Tensor) -> Callable[[Tensor], Tensor]:
        """The change of state by the jumps that are due, (N, J)."""
        if not due.shape[1]:
            return lambda x: x
        jumps, samples, number = self._jumps, due.any(1), due.long().argmax(1)

        def change(x: Tensor) -> Tensor:
            if not jumps.times.requires_grad or not torch.is_grad_enabled():
                return jumped(jumps, number, samples, x)
            rows = jumps.times.expand(len(x), -1).gather(1, number[:, None])[:, 0]
            t = per_sample(torch.where(samples, rows, 0.0).to(x.real), x)
            # at the value of the jump's time, the flow is followed to the jump and back again
            before = shifted(self._func, x, t.detach(), t, self._calls)
            after = shifted(self._func, jumped(jumps, number, samples, before), t, t.detach(), self._calls)
            return torch.where(per_sample(samples, x), after, x)

        return change

    def _tau(self, times: Tensor, n: int) -> Tensor:
        """Signed τ of times (K,) or (N, K), infinity at padding, (N, K)."""
        t0 = self.axis.t0.reshape(-1, 1)
        tau = self.axis.sign * (times.detach().to(t0) - t0)
        return torch.where(torch.isnan(tau), torch.inf, tau).expand(n, -1)
