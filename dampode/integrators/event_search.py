"""The search for events of an adaptive solve: where a function of time and state crosses 0, per sample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.dense_output import StatesInside
from dampode.integrators.shifts import per_sample, shifted
from dampode.integrators.time_axis import TimeAxis

__all__ = ["Event", "EventMap", "EventRecord", "EventSearch", "EventSettings"]

Event = Callable[[Tensor, Tensor], Tensor]
"""(t, x) -> values (N,) or (N, K), whose zeros are the events; t is (N, 1, ..., 1)."""

EventMap = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(k, t, x) -> x after the event, (N, *S): k (N,) int64 holds the number of each sample's event function."""

_NODES = (0.25, 0.5, 0.75, 1.0)
"""Where in a step the event functions are evaluated, as shares of it."""

_ITERATIONS = 20
"""Of the search inside a quarter of a step. Every second one halves it."""


@dataclass(frozen=True)
class EventSettings:
    """What counts as an event, and what happens there."""

    event: Event
    direction: int
    """1: only upward crossings count, −1: only downward ones, 0: both."""
    count: int
    """The number of events after which a sample's solve ends."""
    map: EventMap | None


class EventRecord(NamedTuple):
    """Events at which some samples are. Values count for ``samples`` only."""

    samples: Tensor
    """(N,) bool."""
    number: Tensor
    """How many events the samples had before, (N,) int64."""
    which: Tensor
    """The number of the event function, (N,) int64."""
    t: Tensor
    """The time, with its gradient, (N,) float64."""
    x: Tensor
    """The state before the map, with its gradient, (N, *S)."""


class _Bracket(NamedTuple):
    """A part of each sample's step, as shares of it, in which the first event lies. Values are (N,)."""

    hit: Tensor
    low: Tensor
    high: Tensor
    sign: Tensor
    """The signs of the event functions at ``low``, (N, K)."""


class EventSearch:
    """Looks into every step for the first event, and lets the sample stop there.

    A step with an event in it is not accepted. The event is located on its dense output, and the step is taken again
    up to there. So the state at the event is as accurate as any step. One step of Newton's method along the flow then
    removes what is left of the event function.

    Args:
        settings: what counts as an event.
        func: the damped vector field.
        x: initial state, (N, *S).
        axis: the time axis.
        calls: counts the calls of f.

    Raises:
        ValueError: an event function is 0 or NaN at the start, or does not return (N,) or (N, K).
    """

    def __init__(
        self, settings: EventSettings, func: DampedODEFunc, x: Tensor, axis: TimeAxis, calls: CallCounter
    ) -> None:
        self._settings, self._func, self._calls = settings, func, calls
        shape = (len(x), *[1] * (x.ndim - 1))
        self._axis = axis.shaped(shape)
        n, device = len(x), x.device
        never = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self.stop, self.ended = never, never
        """τ of the event that each sample is to reach, and of the event with which its solve ended; else infinity."""
        self._which = torch.zeros(n, dtype=torch.long, device=device)
        self._length = torch.zeros(n, dtype=torch.float64, device=device)
        self.found = torch.zeros(n, dtype=torch.long, device=device)
        """The number of events of each sample so far, (N,)."""
        self.records: list[EventRecord] = []
        with torch.no_grad():
            start = self._values(self._time(torch.zeros_like(never), x), x)
        bad = ~(start.abs() > 0)
        if bool(bad.any()):
            sample, k = torch.nonzero(bad)[0].tolist()
            raise ValueError(
                f"an event must not be 0 at the start, got event {k} of sample {sample} with the value "
                f"{start[sample, k].item():g} there; start a little later, or shift the event"
            )
        self._sign = start.sign()

    @torch.no_grad()
    def look(self, inside: StatesInside, after: Tensor, begin: Tensor, end: Tensor, ok: Tensor) -> Tensor:
        """Look for events in a step.

        Args:
            inside: the states inside the step.
            after: the states at its end, (N, *S).
            begin: τ at its start, (N,).
            end: τ at its end, (N,).
            ok: the samples that would accept the step, (N,).

        Returns:
            The samples that must not accept it, because an event lies inside it, (N,).
        """
        ok = ok & (begin < end) & (self.stop > end)

        def values(share: Tensor) -> Tensor:
            x = inside.state(per_sample(share, after).to(after.dtype))
            return self._values(self._time(torch.lerp(begin, end, share), after), x)

        bracket = self._bracket(values, self._values(self._time(end, after), after), ok)
        hit = bracket.hit
        if bool(hit.any()):
            root, which = self._root(values, bracket)
            at = torch.maximum(torch.lerp(begin, end, root), begin + self._shortest(begin, after))
            self.stop = torch.where(hit, torch.minimum(at, end), self.stop)
            self._which = torch.where(hit, which, self._which)
            self._length = torch.where(hit, end - begin, self._length)
        return hit

    def reached(self, tau: Tensor, sound: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The samples that are at their events, (N,), and the change of their states there."""
        samples = (self.stop <= tau) & sound
        self.stop = torch.where(samples, torch.inf, self.stop)
        number, which, length = self.found, self._which, self._length
        self.found = self.found + samples
        last = samples & (self.found >= self._settings.count)
        self.ended = torch.where(last, tau, self.ended)

        def change(x: Tensor) -> Tensor:
            if not bool(samples.any()):
                return x
            t = self._time(tau, x)
            delay = self._delay(t, x, which, 0.1 * length, samples)
            at = shifted(self._func, x, t, t + delay, self._calls)
            time = self._axis.time(per_sample(tau, x), torch.float64) + delay
            self.records.append(EventRecord(samples, number, which, time.reshape(-1), at))
            back = x
            if self._settings.map is not None:
                back = self._settings.map(which, t + delay, at)
                require_instance(back, Tensor, "the state after an event", "map(k, t, x) must return it")
                if back.shape != x.shape:
                    raise ValueError(
                        f"map(k, t, x) must keep the state's shape: x is {tuple(x.shape)}, got {tuple(back.shape)}"
                    )
                back = shifted(self._func, back, t + delay, t, self._calls)
            return torch.where(per_sample(samples, x), torch.where(per_sample(last, x), at, back), x)

        return samples, change

    @torch.no_grad()
    def note_signs(self, x: Tensor, tau: Tensor, samples: Tensor) -> None:
        """Note the signs of the event functions just after τ, from the states there. They change at a restart."""
        t, share = self._time(tau, x), torch.finfo(x.dtype).eps ** 0.5
        h = self._axis.sign * share * self._axis.span.to(t.dtype)
        soon = torch.addcmul(x, h, self._func(t, x))
        self._sign = torch.where(samples[:, None], self._values(t + h, soon).sign(), self._sign)

    @torch.no_grad()
    def require_separate(self, x0: Tensor, x1: Tensor, tau: Tensor) -> None:
        """Raise if the events of a sample depend on other samples. Every second sample is put back to its start."""
        t0, t1 = self._time(torch.zeros_like(tau), x0), self._time(tau, x1)
        back = per_sample(torch.arange(len(x0), device=x0.device) % 2 == 0, x0)
        mixed = self._values(torch.where(back, t0, t1), torch.where(back, x0, x1))
        expected = torch.where(back.reshape(-1, 1), self._values(t0, x0), self._values(t1, x1))
        limit = 100 * torch.finfo(expected.dtype).eps * (1 + expected.abs())
        wrong = ~((mixed - expected).abs() <= limit) & torch.isfinite(expected)
        if bool(wrong.any()):
            sample, k = torch.nonzero(wrong)[0].tolist()
            raise ValueError(
                f"an event must act on each sample by itself, got event {k} that gives sample {sample} other values "
                "when other samples change; reduce over the dimensions of the state, not over the batch"
            )

    def _bracket(self, values: Callable[[Tensor], Tensor], at_end: Tensor, ok: Tensor) -> _Bracket:
        """The first of the quarters of a step in which an event lies. Notes the signs where there is none."""
        sign, low = self._sign, torch.zeros_like(self.stop)
        bracket = _Bracket(torch.zeros_like(ok), low, low, sign)
        for node in _NODES:
            high = torch.full_like(low, node)
            g = at_end if node == 1.0 else values(high)
            crossed = (sign * g <= 0) & (sign != 0) & self._allowed(sign)  # no sign: the last event left it at 0
            new = ok & crossed.any(1) & ~bracket.hit
            bracket = _Bracket(
                bracket.hit | new,
                torch.where(new, low, bracket.low),
                torch.where(new, high, bracket.high),
                torch.where(new[:, None], sign, bracket.sign),
            )
            sign, low = torch.where(g == 0, -sign, torch.where(torch.isnan(g), sign, g.sign())), high
        self._sign = torch.where((ok & ~bracket.hit)[:, None], sign, self._sign)
        return bracket

    def _root(self, values: Callable[[Tensor], Tensor], bracket: _Bracket) -> tuple[Tensor, Tensor]:
        """Where in the step the first event is, and the number of its function, by secants and bisections."""
        allowed = self._allowed(bracket.sign)

        def before(g: Tensor) -> Tensor:  # above 0 before the event
            return (bracket.sign * g).masked_fill(~allowed, torch.inf)

        low, high = bracket.low, bracket.high
        at_low, at_high = before(values(low)), before(values(high))
        for n in range(_ITERATIONS):
            # a function that was 0 at the last event has no secant
            share = torch.full_like(low, 0.5) if n % 2 == 0 else _first_zero(at_low, at_high).amin(1).to(low)
            middle = torch.lerp(low, high, torch.where((share > 0) & (share < 1), share, 0.5))
            g = before(values(middle))
            early = (g > 0).all(1)
            low, at_low = torch.where(early, middle, low), torch.where(early[:, None], g, at_low)
            high, at_high = torch.where(early, high, middle), torch.where(early[:, None], at_high, g)
        first, which = _first_zero(at_low, at_high).min(1)
        return torch.lerp(low, high, first.clamp(0.0, 1.0).to(low)), which

    def _allowed(self, sign: Tensor) -> Tensor:
        """The event functions whose next crossing is in the wanted direction, (N, K)."""
        direction = self._settings.direction
        return torch.ones_like(sign, dtype=torch.bool) if direction == 0 else sign == -direction

    def _delay(self, t: Tensor, x: Tensor, which: Tensor, limit: Tensor, samples: Tensor) -> Tensor:
        """The time from t to the event, with its first and second derivatives, (N, 1, ..., 1); 0 for other samples.

        Two steps of Newton's method give it, with the slope of the event function along the flow as a constant. Each
        step makes one more derivative right. Where the slope is 0 the event has no derivative: gradients become NaN.
        """
        slope, bound = self._slope(t, x, which), limit.to(t.dtype)
        flat = samples & (slope == 0)

        def newton(delay: Tensor, at: Tensor) -> Tensor:
            g = self._values(t + per_sample(delay, x), at).gather(1, which[:, None])[:, 0]
            new = delay - g.to(t.dtype) / torch.where(slope == 0, 1.0, slope)
            value = torch.where(flat, 0.0, new.detach()).clamp(min=-bound, max=bound)
            return torch.where(samples, new - new.detach() + value, 0.0)

        delay = newton(torch.zeros_like(slope), x)
        delay = newton(delay, shifted(self._func, x, t, t + per_sample(delay, x), self._calls))
        if delay.requires_grad:
            delay.register_hook(lambda grad: torch.where(flat & (grad != 0), torch.nan, grad))
        return per_sample(delay, x)

    def _slope(self, t: Tensor, x: Tensor, which: Tensor) -> Tensor:
        """The derivative of each sample's event function along the flow, (N,), without gradient."""
        with torch.enable_grad():
            t_free, x_free = t.detach().requires_grad_(), x.detach().requires_grad_()
            free = self._values(t_free, x_free).gather(1, which[:, None]).sum()
            if not free.requires_grad:
                return torch.zeros(len(x), dtype=t.dtype, device=x.device)
            g_t, g_x = torch.autograd.grad(free, (t_free, x_free), allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            moved = (g_x.conj() * self._func(t.detach(), x.detach())).real.reshape(len(x), -1).sum(1)
            slope: Tensor = g_t.reshape(-1) + moved
        return slope

    def _values(self, t: Tensor, x: Tensor) -> Tensor:
        """The event functions, (N, K)."""
        g = self._settings.event(t, x)
        require_instance(g, Tensor, "event(t, x)")
        if g.shape[:1] != (len(x),) or g.ndim not in (1, 2):
            raise ValueError(
                f"event(t, x) must return (N,) or (N, K), got shape {tuple(g.shape)} for {len(x)} samples; t is "
                f"{tuple(t.shape)} and x is {tuple(x.shape)}"
            )
        return g.reshape(len(x), -1)

    def _time(self, tau: Tensor, x: Tensor) -> Tensor:
        """The time of N values τ, (N, 1, ..., 1), in x's real dtype."""
        return self._axis.time(per_sample(tau, x), x.dtype)

    def _shortest(self, tau: Tensor, x: Tensor) -> Tensor:
        """The shortest step from N values τ, (N,)."""
        return self._axis.shortest_step(per_sample(tau, x)).reshape(-1)


def _first_zero(low: Tensor, high: Tensor) -> Tensor:
    """Where the line from ``low`` at 0 to ``high`` at 1 crosses 0 downward, elementwise; infinity where it does not."""
    crosses = (high <= 0) & torch.isfinite(low)
    share = low.clamp(min=0) / torch.where(crosses & (low > high), low - high, 1.0)
    return torch.where(crosses, share, torch.inf)
