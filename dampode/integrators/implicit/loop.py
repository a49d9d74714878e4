"""The loop of an adaptive implicit solve: acceptance and bookkeeping per sample."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.clock import Clock
from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.stages import Iterating, Stages
from dampode.integrators.lost import Lost
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import FLOOR, Tolerance, logarithm, step_factor

_CODES = tuple(Status)


class ImplicitStep(NamedTuple):
    """An accepted step, for the pass that gradients take."""

    h: Tensor
    """Its length, (N, 1, ..., 1) float64; 0 for samples that did not move."""
    begin: Tensor
    end: Tensor
    stages: list[Tensor]
    """The converged stages, five of (N, *S)."""


class ImplicitLoop:
    """One solve without gradients. States are (N, d), values per sample (N, 1), times float64, τ = |t − t0|.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
        iterate: what makes an iteration of the stages.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, tol: Tolerance, iterate: Iterating) -> None:
        self.clock, self.times, self.x0 = Clock.of(times, x.device), times, x
        self.asked = self.clock.tau(times[1:])
        self.tol = Tolerance(max(tol.rtol, 10 * torch.finfo(x.dtype).eps), tol.atol)
        self.tau = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
        self.calls, self.accepted, self.attempts = (torch.zeros_like(self.tau, dtype=torch.long) for _ in range(3))
        self.split, self.x = Splitting(func, x), x.reshape(len(x), -1)
        self.lam = _flat(self.split.lam, x)
        self.slope = self._n(self.tau, self.x, self.tau >= 0) - self.lam * self.x  # F(x, t)
        self.stages = Stages(self.x, self.clock.span, self.tol, iterate)
        self.log_ratio = torch.zeros_like(self.x[:, :1])
        """Of the last accepted step's error."""
        self.code = torch.zeros_like(self.calls)
        self._refuse()
        self.lost = Lost(self.tau, self.clock.span)
        self.rows = x.new_full((len(self.asked), *self.x.shape), torch.nan)
        self.steps: list[ImplicitStep] = []

    def run(self, max_steps: int, start: float | None, longest: float | None, keep: bool) -> Solution:
        """Step until every sample is done or has failed; ``keep`` the accepted steps."""
        h = self._first_step(start)
        for _ in range(max_steps):
            active = (self.tau < self.clock.span) & (self.code == 0)
            if not bool(active.any()):
                break
            h = self._advance(h if longest is None else h.clamp(max=longest), active, keep)
        self._code((self.tau < self.clock.span) & (self.code == 0), Status.MAX_STEPS)
        attempts, accepted = self.attempts[:, 0], self.accepted[:, 0]
        return Solution(
            t=self.times,
            x=torch.cat((self.x0[None], self.rows.reshape(-1, *self.x0.shape))),
            nfe=self.calls[:, 0],
            accepted=accepted,
            rejected=attempts - accepted,
            status=tuple(_CODES[c] for c in self.code[:, 0].tolist()),
            reached=self.clock.time(self.tau[:, 0], torch.float64),
        )

    def _shaped(self, per_sample: Tensor) -> Tensor:
        """(N, 1) as (N, 1, ..., 1), which broadcasts to the state."""
        return per_sample.reshape(-1, *[1] * (self.x0.ndim - 1))

    def _n(self, tau: Tensor, x: Tensor, active: Tensor) -> Tensor:
        self.calls = self.calls + active
        return self.split(self._shaped(self.clock.time(tau, x.dtype)), x.reshape(self.x0.shape)).reshape(x.shape).to(x)

    def _code(self, where: Tensor, status: Status) -> None:
        self.code = self.code.masked_fill(where, _CODES.index(status))

    def _refuse(self) -> None:
        """Give a status to samples that cannot start."""
        if self.clock.sign < 0:
            limit = math.log(torch.finfo(self.x.dtype).max)
            self._code((self.lam * self.clock.span > limit).any(1, keepdim=True), Status.OVERFLOW)
        self._code(self._undamped(self.x), Status.NEGATIVE_DAMPING)
        self._code(~torch.isfinite(self.x + self.slope).all(1, keepdim=True), Status.NOT_FINITE)

    def _undamped(self, x: Tensor) -> Tensor:
        """Whether a sample's λ is negative or NaN anywhere, (N, 1)."""
        return self.split.undamped(x.reshape(self.x0.shape)).reshape(-1, 1)

    def _first_step(self, start: float | None) -> Tensor:
        """Over which x moves by √rtol of itself, at most 0.1 / λ: a cautious start, growing up to tenfold a step."""
        if start is not None:
            return torch.full_like(self.tau, start)
        speed = self.tol.ratio(self.slope, self.x.abs()).to(torch.float64)
        lam = self.lam.abs().amax(1, keepdim=True).to(torch.float64)
        h: Tensor = (self.tol.rtol**-0.5 / speed.nan_to_num(1e8, 1e8).clamp(min=1e-8)).clamp(max=self.clock.span)
        return h.clamp(max=0.1 / lam.clamp(min=0.1 / self.clock.span))

    def _advance(self, h: Tensor, active: Tensor, keep: bool) -> Tensor:
        """One attempt of every active sample; the lengths to try next."""
        left = self.clock.span - self.tau
        last = h >= left - self.clock.shortest  # what rounding leaves of the way is too short for a step
        end = torch.where(active, torch.where(last, self.clock.span, self.tau + h), self.tau)
        h = torch.where(active, torch.where(last, left, h), 0.0)
        stages, signed = self.stages, (self.clock.sign * h).to(self.x.dtype)
        good = stages.solve(self._n, torch.cat((self.tau, end), 1), signed, self.slope, self.lam, active)
        x = stages.rows[:, 7]
        error, slope = stages.error_and_slope()
        ratio = self.tol.ratio(error, torch.maximum(self.x.abs(), x.abs()))
        ok, log_ratio = good & (ratio <= 1), logarithm(ratio)
        wished = torch.where(good, h * step_factor(log_ratio, ok, self.log_ratio), 0.5 * h)
        self.log_ratio = torch.where(ok, log_ratio.clamp(min=FLOOR), self.log_ratio)
        self.attempts, self.accepted = self.attempts + active, self.accepted + ok
        wished, rejected = self.lost.held(wished, h), active & ~ok
        any_ok, any_rejected = torch.stack((ok.any(), rejected.any())).tolist()
        if any_rejected:
            self._fail(rejected, wished <= self.clock.shortest, good, error)
        end = torch.where(ok, end, self.tau)
        self._output(end, h, slope)
        if keep and any_ok:
            values = [state.reshape(self.x0.shape) for state in stages.rows[:, 3:8].clone().unbind(1)]
            length, begin, until = map(self._shaped, (torch.where(ok, h, 0.0), self.tau, end))
            self.steps.append(ImplicitStep(length, begin, until, values))
        stages.end(ok)
        self.tau, self.x = end, stages.rows[:, 2]
        self.slope = torch.where(ok, slope / torch.where(ok, signed, 1.0), self.slope)
        split = self.split.at(self.x.reshape(self.x0.shape))
        if split is not self.split:
            self.split, self.lam = split, _flat(split.lam, self.x0)
            self._code(ok & self._undamped(self.x), Status.NEGATIVE_DAMPING)
        return wished

    def _fail(self, rejected: Tensor, shortest: Tensor, good: Tensor, error: Tensor) -> None:
        """Give the samples that cannot go on their status; an error that is not finite is of an f that was not."""
        lost = rejected & ~torch.isfinite(error).all(1, keepdim=True)
        hopeless = self.lost.hopeless(lost, self.tau)
        self._code(rejected & shortest, Status.STEP_UNDERFLOW)
        self._code(rejected & shortest & ~good, Status.INNER_SOLVE_FAILED)
        self._code(hopeless | (lost & shortest), Status.NOT_FINITE)

    def _output(self, end: Tensor, h: Tensor, slope: Tensor) -> None:
        """The asked times inside the steps, at whose ends h F is ``slope``."""
        sample, row = ((self.tau < self.asked) & (self.asked <= end)).nonzero(as_tuple=True)
        theta = ((self.asked[row, None] - self.tau[sample]) / h[sample]).to(self.x.dtype)
        rows = self.stages.rows[sample]
        self.rows[row, sample] = tableau.hermite(theta, rows[:, 2], rows[:, 8], rows[:, 7], slope[sample])


def _flat(lam: Tensor, x: Tensor) -> Tensor:
    """λ as (N, 1), where it is a number a sample, else as (N, d)."""
    lam = lam.reshape(*[1] * (x.ndim - lam.ndim), *lam.shape)
    shape = (len(x), *[1] * (x.ndim - 1)) if lam[0].numel() == 1 else x.shape
    return lam.expand(shape).reshape(len(x), -1)
