"""The loop of the adaptive exponential pair: attempts, acceptance and bookkeeping per sample."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.clock import Clock
from dampode.integrators.exponential.dense_output import DenseOutput, Segment
from dampode.integrators.exponential.replay import Taken
from dampode.integrators.exponential.step import Attempt, Place, bend
from dampode.integrators.lost import Lost
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import History, Tolerance, first_step, no_history, probe_step

_CODES = tuple(Status)
CALLS = 4
"""Of f, an attempt."""

Attempting = Callable[[Splitting, Place, Tensor, Clock, Tolerance], Attempt]
"""`attempt`, or a compiled form of it."""


class AdaptiveLoop:
    """One solve. Values per sample are (N, 1, ..., 1), so that they broadcast to the state; times are float64.

    τ = |t − t0| increases whichever way t goes. A sample that is done, or has failed, takes steps of length 0, which
    change nothing to the last bit.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
        attempt: what attempts a step.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, tol: Tolerance, attempt: Attempting) -> None:
        self.times, self.tol, self.attempt, self.x0 = times, tol, attempt, x
        self.clock = Clock.of(times, x.device)
        tau = torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=torch.float64, device=x.device)
        self.dense = DenseOutput(x, self.clock.tau(times[1:-1]))
        self.split = Splitting(func, x)
        self.place = Place(x, self.split(self.clock.time(tau, x.dtype), x), tau, no_history(x))
        self.code = self._refusals()
        self.active = self.code == 0  # neither done nor failed
        self.failed = int((~self.active).sum())  # samples that will never reach the last time
        self.accepted, self.attempts = torch.zeros_like(self.code), torch.zeros_like(self.code)
        self.extra_calls = torch.ones_like(self.code)
        self.lost = Lost(tau, self.clock.span)
        self.taken: list[Taken] | None = None
        """Where a list, the steps taken, for `replay`."""

    def run(self, max_steps: int, start: float | None, longest: float | None, progress: bool) -> Solution:
        """Step until every sample is done or has failed."""
        h = torch.where(self.active, self._first_step(start), 0.0)
        with _Bar(progress, self.clock.span) as bar:
            running, attempts = True, 0
            while running and attempts < max_steps:
                attempts += 1
                running, h = self._advance(h if longest is None else h.clamp(max=longest))
                bar.show(self.place.tau)
        self.code = torch.where(self.active, _CODES.index(Status.MAX_STEPS), self.code)
        return self._solution()

    @torch.no_grad()
    def _refusals(self) -> Tensor:
        """Codes of samples that cannot start."""
        x, n1, tau, _ = self.place
        code = torch.zeros_like(tau, dtype=torch.long)
        largest = _worst(self.split.lam.expand_as(x)) * self.clock.span
        if self.clock.sign < 0:
            limit = math.log(torch.finfo(x.dtype).max)
            code = torch.where(largest > limit, _CODES.index(Status.OVERFLOW), code)
        code = torch.where(self.split.undamped(x), _CODES.index(Status.NEGATIVE_DAMPING), code)
        finite = torch.isfinite(_worst(n1.abs() + x.abs()))
        return torch.where(finite, code, _CODES.index(Status.NOT_FINITE))

    @torch.no_grad()
    def _first_step(self, start: float | None) -> Tensor:
        x, n1, tau, _ = self.place
        if start is not None:
            return torch.full_like(tau, start)
        probe = probe_step(self.split.lam, x, n1, self.tol).to(torch.float64).clamp_(max=self.clock.span)
        self.extra_calls = self.extra_calls + 1
        signed = (self.clock.sign * probe).to(x.dtype)
        first = first_step(self.split, x, n1, self.clock.time(probe, x.dtype), signed, self.tol).to(torch.float64)
        return torch.fmax(first, self.clock.shortest)  # a step of 0, or NaN, would never end the solve

    def _advance(self, h: Tensor) -> tuple[bool, Tensor]:
        """One attempt of every active sample: whether any goes on, and the lengths to try next."""
        made = first = self.attempt(self.split, self.place, h, self.clock, self.tol)
        n_ok, n_finite, n_stuck, n_running = made.counts.tolist()  # the step's one host sync
        self.attempts, self.accepted = self.attempts + self.active, self.accepted + (first.ok & self.active)
        if n_ok and n_finite < len(h) and torch.is_grad_enabled():
            # a value that is not finite gives NaN gradients even where it is not selected: repeat without it
            made = self.attempt(self.split, self.place, torch.where(first.ok, h, 0.0), self.clock, self.tol)
            self.extra_calls = self.extra_calls + CALLS * (self.active & ~first.finite)
        if n_ok:
            self._accept(made, first.ok, n_ok == len(h))
        wished = self.lost.held(first.wished, h)
        if n_stuck or n_finite < len(h):
            wished = self._fail(first, wished)
        self.active = self.active & first.running
        return n_running > self.failed, wished

    def _accept(self, made: Attempt, ok: Tensor, all_ok: bool) -> None:
        """Move the samples whose step was accepted."""
        before, step = self.place, made.step
        if self.taken is not None:
            self.taken.append(Taken(before.tau, made.tau, before.past.h))
        if self.dense.wanted:
            ends, lam = made.tau.reshape(-1), self.split.lam
            cubic = bend(made, before)
            self.dense.add(Segment(before.x, before.n1, step.slope, step.curve, cubic, lam, made.h, ends))
        if all_ok:
            self.split, self.place = made.split, Place(step.x, made.n1, made.tau, made.past)
            return
        x, n1 = torch.where(ok, step.x, before.x), torch.where(ok, made.n1, before.n1)
        past = History(*(torch.where(ok, new, old) for new, old in zip(made.past, before.past, strict=True)))
        self.split, self.place = self.split.at(x), Place(x, n1, torch.where(ok, made.tau, before.tau), past)

    @torch.no_grad()
    def _fail(self, made: Attempt, wished: Tensor) -> Tensor:
        """Give the samples that cannot go on their status, and the others their next lengths."""
        why = torch.where(made.finite, _CODES.index(Status.STEP_UNDERFLOW), _CODES.index(Status.NOT_FINITE))
        why = torch.where(made.ok, _CODES.index(Status.NEGATIVE_DAMPING), why)
        hopeless = self.lost.hopeless(self.active & ~made.finite, self.place.tau)
        self.code = torch.where((made.stuck & self.active) | hopeless, why, self.code)
        alive = self.code == 0
        self.active = self.active & alive
        self.failed = int((~alive & made.running).sum())
        return torch.where(alive, wished, 0.0)

    def _solution(self) -> Solution:
        done = self.code == 0
        x, _, tau, _ = self.place
        last = x if bool(done.all()) else torch.where(done, x, torch.nan)
        states = torch.cat((self.x0[None], self.dense.states(), last[None]))
        attempts, accepted = self.attempts.reshape(-1), self.accepted.reshape(-1)
        return Solution(
            t=self.times,
            x=states,
            nfe=self.extra_calls.reshape(-1) + CALLS * attempts,
            accepted=accepted,
            rejected=attempts - accepted,
            status=tuple(_CODES[c] for c in self.code.reshape(-1).tolist()),
            reached=self.clock.time(tau.reshape(-1), torch.float64),
        )


class _Bar:
    """A tqdm bar of the slowest sample's time, or nothing."""

    def __init__(self, wanted: bool, span: Tensor) -> None:
        self.bar: Any = None
        if wanted:
            try:
                from tqdm import tqdm
            except ImportError:
                raise ImportError("progress=True needs tqdm; install it, or dampode[train]") from None
            self.bar = tqdm(total=span.item(), unit="t", bar_format="{l_bar}{bar}| {n:.3g}/{total:.3g} [{elapsed}]")

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, tau: Tensor) -> None:
        """Draw the bar at the slowest sample's time."""
        if self.bar is not None:
            self.bar.update(tau.min().item() - self.bar.n)


def _worst(values: Tensor) -> Tensor:
    """The largest value of every sample, NaN where there is one, (N, 1, ..., 1)."""
    return values.reshape(len(values), -1).amax(1).reshape(-1, *[1] * (values.ndim - 1))
