"""The loop of an adaptive implicit solve: stages, acceptance and bookkeeping per sample."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators import kencarp
from dampode.integrators.clock import Clock
from dampode.integrators.secant import Secants
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import FLOOR, Tolerance, logarithm, no_history, step_factor

_CODES = tuple(Status)
_ITERATIONS = 12  # of a stage, at most: a shorter step costs less than more of them
_SHARE = 0.02  # of the tolerance that the error of a stage may take


class ImplicitStep(NamedTuple):
    """An accepted step, for the pass that gradients take."""

    h: Tensor
    """Its length, (N, 1, ..., 1) float64; 0 for samples that did not move."""
    begin: Tensor
    end: Tensor
    stages: list[Tensor]
    """The converged stages, five of (N, *S)."""


class ImplicitLoop:
    """One solve without gradients. Values per sample are (N, 1, ..., 1); times are float64, |t − t0|.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, tol: Tolerance) -> None:
        self.clock, self.times = Clock.of(times, x.device), times
        self.asked: list[float] = self.clock.tau(times[1:]).tolist()
        rounding = torch.finfo(x.dtype).eps
        self.tol, self.x = Tolerance(max(tol.rtol, 10 * rounding), tol.atol), x
        self.share = max(_SHARE, 2 * rounding / self.tol.rtol)
        self.tau = torch.zeros(len(x), *[1] * (x.ndim - 1), dtype=torch.float64, device=x.device)
        self.code = torch.zeros_like(self.tau, dtype=torch.long)
        self.calls, self.accepted, self.attempts = (torch.zeros_like(self.code) for _ in range(3))
        self.split = Splitting(func, x)
        self.slope = self._n(self.tau, x, self.tau >= 0) - self.split.lam * x  # F(x, t)
        self.secants, self.rate = Secants(x), torch.full_like(self.tau, 0.5)
        self.past = no_history(x)
        self.before: list[tuple[Tensor, Tensor]] = []  # times and states of the last step's two stages before its end
        self.rows = torch.full((len(self.asked), *x.shape), torch.nan, dtype=x.dtype, device=x.device)
        self.steps: list[ImplicitStep] = []
        self._refuse()

    def run(self, max_steps: int, start: float | None, keep: bool) -> Solution:
        """Step until every sample is done or has failed; ``keep`` the accepted steps."""
        first, h = self.x, self._first_step(start)
        for _ in range(max_steps):
            active = (self.tau < self.clock.span) & (self.code == 0)
            if not bool(active.any()):
                break
            h = self._advance(h, active, keep)
        waiting = (self.tau < self.clock.span) & (self.code == 0)
        self.code = torch.where(waiting, _CODES.index(Status.MAX_STEPS), self.code)
        failed = (self.code != 0)[None] & torch.isnan(self.rows)
        xs = torch.cat((first[None], torch.where(failed, torch.nan, self.rows)))
        attempts, accepted = self.attempts.reshape(-1), self.accepted.reshape(-1)
        return Solution(
            t=self.times,
            x=xs,
            nfe=self.calls.reshape(-1),
            accepted=accepted,
            rejected=attempts - accepted,
            status=tuple(_CODES[c] for c in self.code.reshape(-1).tolist()),
            reached=self.clock.time(self.tau.reshape(-1), torch.float64),
        )

    def _n(self, tau: Tensor, x: Tensor, active: Tensor) -> Tensor:
        self.calls = self.calls + active
        return self.split(self.clock.time(tau, x.dtype), x)

    def _refuse(self) -> None:
        """Give a status to samples that cannot start."""
        lam = self.split.lam.expand_as(self.x)
        if self.clock.sign < 0:
            limit = math.log(torch.finfo(self.x.dtype).max)
            self._code(_any(lam * self.clock.span > limit), Status.OVERFLOW)
        self._code(self.split.undamped(self.x), Status.NEGATIVE_DAMPING)
        self._code(_any(~torch.isfinite(self.x + self.slope)), Status.NOT_FINITE)

    def _code(self, where: Tensor, status: Status) -> None:
        self.code = torch.where(where, _CODES.index(status), self.code)

    def _first_step(self, start: float | None) -> Tensor:
        """Over which x moves by a hundredth of the tolerance's root: a cautious start, which grows tenfold a step."""
        if start is not None:
            return torch.full_like(self.tau, start)
        size = self.x.abs()
        speed = self.tol.ratio(self.slope, size).to(torch.float64).nan_to_num(1e8, 1e8).clamp(min=1e-8)
        lam = self.split.lam.abs().expand_as(self.x).flatten(1).amax(1).reshape(self.tau.shape).to(torch.float64)
        h: Tensor = (self.tol.rtol**-0.5 / speed).clamp(max=self.clock.span)
        return h.clamp(max=0.1 / lam.clamp(min=0.1 / self.clock.span))

    def _stages(self, h: Tensor, active: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The stages, their slopes h F, and whether all converged."""
        signed = (self.clock.sign * h).to(self.x.dtype)
        stages, slopes, good = [self.x], [signed * self.slope], active | ~active
        known = [(self.tau, self.x)]
        for node in kencarp.NODES[1:]:
            tau = self.tau + node * h
            eq = kencarp.equation(self.x, slopes, self.split.lam, signed)
            near = sorted(range(len(known)), key=lambda j: abs(kencarp.NODES[j] - node))
            guess = kencarp.predict([*(known[j] for j in near), *self.before][:3], tau)
            u, converged = self._solve(eq, torch.where(active & torch.isfinite(guess), guess, self.x), tau, active)
            good = good & (converged | ~active)
            known.append((tau, u))
            stages.append(u)
            slopes.append(kencarp.stage_slope(u, eq.base))
        return stages, slopes, good

    def _solve(self, eq: kencarp.Equation, u: Tensor, tau: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """U = a + g N(U): quasi-Newton until every sample's error is below its share of the tolerance."""
        busy, last = active, None
        old: tuple[Tensor, Tensor] | None = None
        for _ in range(_ITERATIONS):
            n = self._n(tau, u, busy)
            if old is not None:
                self.secants.add(u - old[0], n - old[1], busy)
            move = self.secants.solve(torch.addcmul(eq.a, eq.g, n) - u, eq.g)
            size = self.tol.ratio(move, self.x.abs())
            if last is not None:
                self.rate = torch.where(busy, (size / last).nan_to_num(0.99, 0.99).clamp(1e-3, 0.99), self.rate)
            old, last = (u, n), size
            u = torch.where(busy, u + move, u)
            busy = busy & ~((self.rate / (1 - self.rate) * size <= self.share) | (size <= 1e-3 * self.share))
            if not bool(busy.any()):
                break
        return u, ~busy

    def _advance(self, h: Tensor, active: Tensor, keep: bool) -> Tensor:
        """One attempt of every active sample; the lengths to try next."""
        left = self.clock.span - self.tau
        final = h >= left
        h = torch.where(active, torch.minimum(h, left), 0.0)
        end = torch.where(final & active, self.clock.span, self.tau + h)
        stages, slopes, good = self._stages(h, active)
        x = stages[-1]
        ratio = self.tol.ratio(kencarp.error(slopes), torch.maximum(self.x.abs(), x.abs()))
        ok = active & good & (ratio <= 1)
        log_ratio = logarithm(ratio)
        wished = torch.where(good, h * step_factor(log_ratio, ok, self.past), 0.5 * h)
        split = self.split.at(x)
        stuck = active & ~ok & (wished <= self.clock.shortest)
        finite = torch.isfinite(ratio) | ~good
        self._code(stuck, Status.STEP_UNDERFLOW)
        self._code(stuck & ~finite, Status.NOT_FINITE)
        self._code(stuck & ~good, Status.INNER_SOLVE_FAILED)
        self.attempts, self.accepted = self.attempts + active, self.accepted + ok
        if bool(ok.any()):
            tau = torch.where(ok, end, self.tau)
            self._output(ok, tau, h, x, slopes)
            if keep:
                self.steps.append(ImplicitStep(torch.where(ok, h, 0.0), self.tau, tau, stages[1:]))
            divisor = torch.where(ok, self.clock.sign * h, 1.0).to(x.dtype)
            self.slope = torch.where(ok, slopes[-1] / divisor, self.slope)
            fresh = [(self.tau + kencarp.NODES[j] * h, stages[j]) for j in (4, 3)]
            pairs = zip(fresh, self.before or fresh, strict=True)
            self.before = [(torch.where(ok, t, s), torch.where(ok, u, v)) for (t, u), (s, v) in pairs]
            self.x, self.tau = torch.where(ok, x, self.x), tau
            made = torch.where(ok, log_ratio.clamp(min=FLOOR), self.past.log_ratio)
            self.past = self.past._replace(log_ratio=made)
            if split is not self.split:
                self.split = self.split.at(self.x)
                self._code(ok & self.split.undamped(self.x), Status.NEGATIVE_DAMPING)
        return wished

    def _output(self, ok: Tensor, tau: Tensor, h: Tensor, x: Tensor, slopes: list[Tensor]) -> None:
        """The asked times inside the step."""
        for row, asked in enumerate(self.asked):
            inside = ok & (self.tau < asked) & (asked <= tau)
            if bool(inside.any()):
                theta = torch.where(inside, (asked - self.tau) / h, 1.0).to(x.dtype)
                state = kencarp.hermite(theta, self.x, x, slopes[0], slopes[-1])
                self.rows[row] = torch.where(inside, state, self.rows[row])


def _any(flags: Tensor) -> Tensor:
    """Whether any flag of a sample is set, (N, 1, ..., 1)."""
    return flags.reshape(len(flags), -1).any(1).reshape(-1, *[1] * (flags.ndim - 1))
