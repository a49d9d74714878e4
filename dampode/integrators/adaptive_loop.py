"""The loop of the adaptive exponential pair: attempts, acceptance and bookkeeping per sample."""

from typing import Any

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.dense_output import DenseOutput, Segment
from dampode.integrators.exponential_rk import KrogstadStep, krogstad_step
from dampode.integrators.replay import Taken
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import (
    History,
    Tolerance,
    cubic,
    error_estimate,
    first_step,
    no_history,
    probe_step,
    step_factor,
)

_CODES = tuple(Status)
CALLS = 4
"""Of f, an attempt."""


class AdaptiveLoop:
    """One solve. Values per sample are (N, 1, ..., 1), so that they broadcast to the state; times are float64.

    ``tau`` = |t − t0| increases whichever way t goes. A sample that is done, or has failed, takes steps of length 0,
    which change nothing to the last bit.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, tol: Tolerance) -> None:
        clock: list[float] = times.detach().to(torch.float64).tolist()
        self.t0, self.span, self.sign = clock[0], abs(clock[-1] - clock[0]), 1.0 if clock[-1] > clock[0] else -1.0
        self.times, self.tol, self.x0, self.x = times, tol, x, x
        self.tau = torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=torch.float64, device=x.device)
        inner = torch.tensor([abs(t - self.t0) for t in clock[1:-1]], dtype=torch.float64).to(x.device)
        self.dense = DenseOutput(x, inner)
        self.split = Splitting(func, x)
        self.n1 = self.split(self._time(self.tau), x)
        self.past = no_history(x, self.tau)
        self.code = self._refusals()
        self.accepted, self.attempts = torch.zeros_like(self.code), torch.zeros_like(self.code)
        self.extra_calls = torch.ones_like(self.code)
        self.taken: list[Taken] | None = None
        """Where a list, the steps taken, for `replay`."""

    def run(self, max_steps: int, start: float | None, progress: bool) -> Solution:
        """Step until every sample is done or has failed."""
        h = self._first_step(start)
        with _Bar(progress, self.span) as bar:
            running, attempt = True, 0
            while running and attempt < max_steps:
                attempt += 1
                running, h = self._advance(h)
                bar.show(self.tau)
        self.code = torch.where(self._active(), _CODES.index(Status.MAX_STEPS), self.code)
        return self._solution()

    def _time(self, tau: Tensor) -> Tensor:
        """The time t at tau, in x's dtype."""
        t: Tensor = self.t0 + self.sign * tau
        return t.to(self.x.dtype)

    def _active(self) -> Tensor:
        waiting: Tensor = self.tau < self.span
        return waiting & (self.code == 0)

    @torch.no_grad()
    def _refusals(self) -> Tensor:
        """Codes of samples that cannot start."""
        code = torch.zeros_like(self.tau, dtype=torch.long)
        lam = self.split.lam
        largest = _worst(lam.expand_as(self.x)) * self.span
        if self.sign < 0:
            limit = torch.log(torch.tensor(torch.finfo(self.x.dtype).max)).item()
            code = torch.where(largest > limit, _CODES.index(Status.OVERFLOW), code)
        code = torch.where(self._undamped(self.split), _CODES.index(Status.NEGATIVE_DAMPING), code)
        finite = torch.isfinite(_worst(self.n1.abs() + self.x.abs()))
        return torch.where(finite, code, _CODES.index(Status.NOT_FINITE))

    def _undamped(self, split: Splitting) -> Tensor:
        """Samples whose λ is negative or NaN."""
        return _worst((~(split.lam >= 0)).expand_as(self.x).to(self.x.dtype)) > 0

    @torch.no_grad()
    def _first_step(self, start: float | None) -> Tensor:
        if start is not None:
            return torch.full_like(self.tau, start)
        probe = probe_step(self.split.lam, self.x, self.n1, self.tol).to(torch.float64).clamp_(max=self.span)
        self.extra_calls = self.extra_calls + 1
        signed = (self.sign * probe).to(self.x.dtype)
        return first_step(self.split, self.x, self.n1, self._time(probe), signed, self.tol).to(torch.float64)

    def _attempt(self, h: Tensor, end: Tensor) -> tuple[KrogstadStep, Splitting, Tensor]:
        """A step of length h to tau = end, the field split at its end, and N there in the new splitting."""
        signed = (self.sign * h).to(self.x.dtype)
        times = (self._time(self.tau + 0.5 * h), self._time(end))
        step = krogstad_step(self.split, self.x, self.n1, times, signed)
        split = self.split.at(step.x)
        return step, split, split(times[1], step.x)

    def _advance(self, h: Tensor) -> tuple[bool, Tensor]:
        """One attempt of every active sample: whether any goes on, and the lengths to try next."""
        active = self._active()
        left = self.span - self.tau
        final = h >= left
        h = torch.where(active, torch.minimum(h, left), 0.0)
        end = torch.where(final & active, self.span, self.tau + h)
        step, split, n1 = self._attempt(h, end)
        with torch.no_grad():
            n5 = n1 if split is self.split else torch.addcmul(n1, self.split.lam - split.lam, step.x)
            ratio = self.tol.ratio(error_estimate(step, n5, h, self.past), torch.maximum(self.x.abs(), step.x.abs()))
            ok = ratio <= 1
            wished = h * step_factor(ratio, ok, self.past)
            finite = torch.isfinite(ratio)
            stuck = active & ~ok & (wished <= self._shortest())
            if split is not self.split:
                stuck = stuck | (active & ok & self._undamped(split))
            tau = torch.where(ok, end, self.tau)
            flags = torch.stack((ok.all(), ok.any(), finite.all(), stuck.any(), (active & (tau < self.span)).any()))
            all_ok, any_ok, all_finite, any_stuck, running = flags.tolist()  # the step's one host sync
        if any_ok and not all_finite and torch.is_grad_enabled():
            # a value that is not finite gives NaN gradients even where it is not selected: repeat without it
            step, split, n1 = self._attempt(torch.where(ok, h, 0.0), torch.where(ok, end, self.tau))
            self.extra_calls = self.extra_calls + CALLS * (active & ~finite)
        self.accepted, self.attempts = self.accepted + (ok & active), self.attempts + active
        if any_ok:
            if self.taken is not None:
                self.taken.append(Taken(torch.where(ok, h, 0.0), self.tau, tau, self.past.h))
            signed = (self.sign * h).to(self.x.dtype)
            if self.dense.wanted:
                bend = cubic(step.curve, h, self.past)
                self.dense.add(
                    Segment(self.x, self.n1, step.slope, step.curve, bend, self.split.lam, signed, tau.reshape(-1))
                )
            curve = step.curve if self.dense.wanted else step.curve.detach()
            self._accept(step, split, n1, History(curve, h, ratio.clamp(min=1e-4)), ok, all_ok)
            self.tau = tau
        if any_stuck:
            self._fail(stuck, finite, split, ok)
            running = bool(self._active().any())
        return running, wished

    def _shortest(self) -> float:
        """A step too short to advance t."""
        return 16 * torch.finfo(torch.float64).eps * max(abs(self.t0), abs(self.t0 + self.sign * self.span))

    def _accept(
        self, step: KrogstadStep, split: Splitting, n1: Tensor, made: History, ok: Tensor, all_ok: bool
    ) -> None:
        """Move the samples whose step was accepted."""
        if all_ok:
            self.x, self.n1, self.split, self.past = step.x, n1, split, made
            return
        self.x, self.n1 = torch.where(ok, step.x, self.x), torch.where(ok, n1, self.n1)
        self.split = self.split.at(self.x)
        self.past = History(*(torch.where(ok, new, old) for new, old in zip(made, self.past, strict=True)))

    def _fail(self, stuck: Tensor, finite: Tensor, split: Splitting, ok: Tensor) -> None:
        """Give the samples that cannot go on their status."""
        why = torch.where(finite, _CODES.index(Status.STEP_UNDERFLOW), _CODES.index(Status.NOT_FINITE))
        why = torch.where(ok & self._undamped(split), _CODES.index(Status.NEGATIVE_DAMPING), why)
        self.code = torch.where(stuck, why, self.code)

    def _solution(self) -> Solution:
        done = self.code == 0
        last = self.x if bool(done.all()) else torch.where(done, self.x, torch.nan)
        x = torch.cat((self.x0[None], self.dense.states(), last[None]))
        attempts, accepted = self.attempts.reshape(-1), self.accepted.reshape(-1)
        return Solution(
            t=self.times,
            x=x,
            nfe=self.extra_calls.reshape(-1) + CALLS * attempts,
            accepted=accepted,
            rejected=attempts - accepted,
            status=tuple(_CODES[c] for c in self.code.reshape(-1).tolist()),
            reached=self.t0 + self.sign * self.tau.reshape(-1),
        )


class _Bar:
    """A tqdm bar of the slowest sample's time, or nothing."""

    def __init__(self, wanted: bool, span: float) -> None:
        self.bar: Any = None
        if wanted:
            try:
                from tqdm import tqdm
            except ImportError:
                raise ImportError("progress=True needs tqdm; install it, or dampode[train]") from None
            self.bar = tqdm(total=span, unit="t", bar_format="{l_bar}{bar}| {n:.3g}/{total:.3g} [{elapsed}]")

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
