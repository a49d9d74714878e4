"""The loop of an adaptive implicit solve: acceptance and bookkeeping per sample."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators import kencarp
from dampode.integrators.clock import Clock
from dampode.integrators.implicit_stages import Stages
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import FLOOR, Tolerance, logarithm, step_factor

_CODES = tuple(Status)


class ImplicitStep(NamedTuple):
    """An accepted step of every sample, for the pass that gradients take."""

    h: Tensor
    """Its length, (N, 1, ..., 1) float64; 0 for samples that have taken all of theirs."""
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
        keep: whether to keep the accepted steps.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, times: Tensor, tol: Tolerance, keep: bool) -> None:
        self.clock, self.times, self.x0, self.keep = Clock.of(times, x.device), times, x, keep
        self.asked = self.clock.tau(times[1:])
        self.tol = Tolerance(max(tol.rtol, 10 * torch.finfo(x.dtype).eps), tol.atol)
        self.tau = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
        self.calls, self.accepted, self.attempts = (torch.zeros_like(self.tau, dtype=torch.long) for _ in range(3))
        self.split = Splitting(func, x)
        self.lam = _flat(self.split.lam, x)
        self.stages = Stages(x.flatten(1), self.lam, self.clock.span, self.tol)
        self.stages.slopes[:, 0] = self._n(self.tau >= 0) - self.lam * self.stages.u  # F(x, t)
        self.log_ratio = torch.zeros_like(self.stages.u[:, :1])
        """Of the last accepted step's error."""
        self.code = self._refusals()
        self.running = self.code == 0
        self.rows = x.new_full((len(self.asked), *self.stages.u.shape), torch.nan)
        self.taken: list[tuple[Tensor, ...]] = []

    def run(self, max_steps: int, start: float | None) -> Solution:
        """Step until every sample is done or has failed."""
        over = self.running
        self._begin(over, self._first_step(start))
        while bool(self.running.any()):
            self.stages.open(over & self.running)
            over, ended = self.stages.iterate(self._n(self.running), self.running)
            if bool(ended.any()):
                self._finish(ended, max_steps)
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

    def steps(self) -> list[ImplicitStep]:
        """The accepted steps: every sample's first ones together, its second ones together, and so on."""
        if not self.taken:
            return []
        step, sample, times, stages = map(torch.cat, zip(*self.taken, strict=True))
        place, shape = (step, sample), (int(step.max()) + 1, len(self.x0))
        still = torch.cat((torch.zeros_like(self.tau), self.tau, self.tau), 1)
        times = still.repeat(shape[0], 1, 1).index_put(place, times)
        stages = stages.new_zeros(*shape, *stages.shape[1:]).index_put(place, stages)
        made = []
        for ends, values in zip(times, stages, strict=True):
            h, begin, end = ends.T.reshape(3, *self._per_sample).unbind()
            made.append(ImplicitStep(h, begin, end, list(values.mT.reshape(len(self.x0), -1, 5).unbind(-1))))
        return made

    @property
    def _per_sample(self) -> tuple[int, ...]:
        return len(self.x0), *[1] * (self.x0.ndim - 1)

    def _n(self, active: Tensor) -> Tensor:
        self.calls = self.calls + active
        t = self.clock.time(self.stages.now, self.x0.dtype).reshape(self._per_sample)
        return self.split(t, self.stages.u.reshape(self.x0.shape)).flatten(1)

    def _refusals(self) -> Tensor:
        """Codes of samples that cannot start."""
        code, x = torch.zeros_like(self.calls), self.stages.u
        if self.clock.sign < 0:
            limit = math.log(torch.finfo(x.dtype).max)
            code[(self.lam * self.clock.span > limit).any(1)] = _CODES.index(Status.OVERFLOW)
        code[~(self.lam >= 0).all(1)] = _CODES.index(Status.NEGATIVE_DAMPING)
        code[~torch.isfinite(x + self.stages.slopes[:, 0]).all(1)] = _CODES.index(Status.NOT_FINITE)
        return code

    def _first_step(self, start: float | None) -> Tensor:
        """Over which x moves by a hundredth of the tolerance's root: a cautious start, which grows tenfold a step."""
        if start is not None:
            return torch.full_like(self.tau, start)
        speed = self.tol.ratio(self.stages.slopes[:, 0], self.stages.u.abs()).to(torch.float64)
        lam = self.lam.abs().amax(1, keepdim=True).to(torch.float64)
        h: Tensor = (self.tol.rtol**-0.5 / speed.nan_to_num(1e8, 1e8).clamp(min=1e-8)).clamp(max=self.clock.span)
        return h.clamp(max=0.1 / lam.clamp(min=0.1 / self.clock.span))

    def _begin(self, which: Tensor, h: Tensor) -> None:
        """Start steps of lengths h, cut to what is left."""
        left = self.clock.span - self.tau
        end = torch.where(h >= left, self.clock.span, self.tau + h)
        self.stages.begin(which, end, self.clock.sign * torch.minimum(h, left), self.lam)

    def _finish(self, ended: Tensor, max_steps: int) -> None:
        """Judge the steps of the samples that have come to the end of one, or could not, and start their next ones."""
        good, h = self.stages.solved, self.stages.h.abs()
        size = torch.maximum(self.stages.states[:, 2].abs(), self.stages.states[:, 7].abs())
        ratio = self.tol.ratio(self.stages.error(), size)
        ok, log_ratio = ended & good & (ratio <= 1), logarithm(ratio)
        wished = torch.where(good, h * step_factor(log_ratio, ok, self.log_ratio), 0.5 * h)
        self.log_ratio = torch.where(ok, log_ratio.clamp(min=FLOOR), self.log_ratio)
        self.attempts = self.attempts + ended
        stuck = ended & ~ok & (wished <= self.clock.shortest)
        self._code(stuck, Status.STEP_UNDERFLOW)
        self._code(stuck & ~torch.isfinite(ratio), Status.NOT_FINITE)
        self._code(stuck & ~good, Status.INNER_SOLVE_FAILED)
        rows = ok[:, 0].nonzero()[:, 0]
        if len(rows):
            self._accept(rows)
        going = (self.tau < self.clock.span) & (self.code == 0)
        self._code(going & (self.attempts >= max_steps), Status.MAX_STEPS)
        self.running = going & (self.code == 0)
        self._begin(ended & self.running, wished)

    def _code(self, where: Tensor, status: Status) -> None:
        self.code = self.code.masked_fill(where, _CODES.index(status))

    def _accept(self, rows: Tensor) -> None:
        """Move the samples ``rows``, (R,), to the end of their step; keep it and the asked times inside it."""
        stages, begin, end = self.stages, self.tau[rows], self.stages.times[rows, 7:]
        sample, row = ((begin < self.asked) & (self.asked <= end)).nonzero(as_tuple=True)
        if len(row):
            place = rows[sample]
            theta = (self.asked[row, None] - begin[sample]) / stages.h[place].abs()
            ends = (kept[place, slot] for slot in (0, 5) for kept in (stages.states[:, 2:], stages.slopes))
            self.rows[row, place] = kencarp.hermite(theta.to(self.rows.dtype), *ends)
        if self.keep:
            times = torch.cat((stages.h[rows].abs(), begin, end), 1)
            self.taken.append((self.accepted[rows, 0], rows, times, stages.states[rows, 3:]))
        self.accepted[rows] += 1
        self.tau[rows] = end
        stages.end(rows)
        x = stages.states[:, 2].reshape(self.x0.shape)
        split = self.split.at(x)
        if split is not self.split:
            self.split, self.lam = split, _flat(split.lam, x)
            self._code(self.running & ~(self.lam >= 0).all(1, keepdim=True), Status.NEGATIVE_DAMPING)


def _flat(lam: Tensor, x: Tensor) -> Tensor:
    """λ as (N, 1), where it is a number a sample, else as (N, d)."""
    lam = lam.reshape(*[1] * (x.ndim - lam.ndim), *lam.shape)
    shape = (len(x), *[1] * (x.ndim - 1)) if lam[0].numel() == 1 else x.shape
    return lam.expand(shape).flatten(1)
