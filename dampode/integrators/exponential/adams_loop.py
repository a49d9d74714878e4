"""The loop of an exponential Adams solve: the host chooses the steps, the device takes them."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.adaptive_loop import AdaptiveLoop, InitialValueProblem
from dampode.integrators.exponential.adams_output import InnerStates, step_polynomial
from dampode.integrators.exponential.adams_plan import PlannedStep, plan_step, sample_damping
from dampode.integrators.exponential.adams_replay import AcceptedStep, replay
from dampode.integrators.exponential.adams_step import (
    StepFunction,
    TriedStep,
    first_history,
    moved_history,
    restarted_history,
)
from dampode.integrators.exponential.multistep_weights import Nodes
from dampode.integrators.exponential.order_choice import STIFF_BOUND, Judgement
from dampode.integrators.exponential.order_control import OrderControl
from dampode.integrators.exponential.stiffness import warn_if_stiff
from dampode.integrators.output_times import with_ends
from dampode.integrators.shifts import per_sample
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.stops import Restart

__all__ = ["AdamsLoop"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class AdamsLoop(AdaptiveLoop):
    """One solve. Values per sample are (N,) and on the CPU, where the steps are chosen.

    A sample that is done, or has failed, takes steps of length 0. These change nothing, to the last bit.

    Args:
        problem: what is solved.
        try_step: the step.
        max_order: the largest order of the predictor.
        segments: number of segments in which `replay` takes the accepted steps again.
    """

    def __init__(self, problem: InitialValueProblem, try_step: StepFunction, max_order: int, segments: int) -> None:
        x = problem.x
        super().__init__(problem, (len(x),), torch.device("cpu"))
        self._func, self._try_step, self._segments = problem.func, try_step, segments
        self._slots = max_order + 2
        n1 = self.splitting.nonlinear(self._time(self.tau), x).to(x.dtype)
        self._damping = sample_damping(self.splitting, x)
        self._history = first_history(self.splitting, x, n1, self._slots)
        # a correction that moves x by less than ten thousand rounding errors does not measure |∂N/∂x|
        self._control = OrderControl(len(x), max_order, 1e4 * torch.finfo(x.dtype).eps / self.tol.smallest_rtol)
        self._weight = np.zeros(len(x))
        # the same memory: what is added here is there
        self._counts = [count.numpy() for count in (self.attempted, self.accepted, self.stiff_steps)]
        self._first_slots = self._slots * torch.arange(len(x), device=x.device)
        self._inner_tau = self.axis.tau(problem.times[..., 1:-1].cpu()).numpy()
        self._inner = InnerStates(x, self._inner_tau)
        self._steps: list[AcceptedStep | Restart] = []
        self._n1 = n1
        with torch.no_grad():
            lam, finite = _largest(self.splitting.lam.real.expand_as(x)), torch.isfinite(_largest(n1.abs() + x.abs()))
            negative = self.splitting.has_negative_damping(x).reshape(-1)
            self.refuse(lam.cpu(), negative.cpu(), finite.cpu())
        self._count_active()

    @property
    def stiff_bound(self) -> float:
        """Stability, not accuracy, bounds a step if h|J| is above this."""
        return STIFF_BOUND

    @property
    def running(self) -> bool:
        """Whether any sample is active."""
        return self._running

    @torch.no_grad()
    def first_step(self) -> Tensor:
        """An estimate of the length of a first step, h = √rtol |x| / (4 |x'|), from the last value of N."""
        x, size, tol = self._history.x, self._history.x.abs(), self.tol
        ratios = torch.stack((tol.ratio(x, size), tol.ratio(self._n1 - self.splitting.lam * x, size)))
        distance, speed = ratios.reshape(2, -1).to("cpu", torch.float64)
        # |x| counts as at least 1/√rtol times the absolute tolerance
        rtol = tol.smallest_rtol
        first = 0.25 * math.sqrt(rtol) * distance.clamp(min=rtol**-0.5) / speed.clamp(min=1e-300)
        first = torch.minimum(first, 1e-3 * self.axis.span)
        # a solve with a step of 0 or NaN would never end
        return torch.fmax(first, self.axis.shortest_step(self.tau)).clamp_(min=torch.finfo(x.dtype).tiny)

    def restart(self, restart: Restart) -> None:
        """Change the states of some samples. Each of them has then no step before."""
        if self.keep_steps:
            self._steps.append(restart)
        x, t = restart.change(self._history.x), self._time(self.tau)
        self.splitting = self.splitting.at(t, x)
        self._n1 = self.splitting.nonlinear(t, x).to(x.dtype)
        newest = torch.from_numpy(self._control.newest.copy()).to(x.device)  # the control changes it in place
        self._history = restarted_history(self._history, self.splitting, x, self._n1, newest, restart.samples)
        self._control.restart(restart.samples.cpu().numpy())
        self._count_active()

    def advance(self, h: Tensor) -> Tensor:
        """Try one step of length ``h`` for every active sample. Returns the lengths to try next."""
        control, active = self._control, self.active.numpy()
        second = control.second & active
        again = control.corrects_again(self._weight) if second.any() else second
        planned = self._plan(control.nodes(h.numpy(), active, self.axis.stop.numpy()), second, again)
        tried = self._try_step(self.splitting, self._history, planned.plan, self.tol)
        found = tried.report.cpu().numpy()  # the only value that a step reads
        report = planned.report(found)
        self._weight = report.weight
        judgement = self._held(control.judge(planned.nodes, planned.positions, report), planned, tried)
        if judgement.counts[3] < len(active) and torch.is_grad_enabled():
            # A value that is not finite gives NaN gradients even where `where` drops it. Repeat the step without it.
            finite = judgement.finite
            nodes = planned.nodes._replace(end=np.where(finite, planned.nodes.end, planned.nodes.begin))
            self.calls.active = torch.from_numpy(active & ~finite).to(self.x0.device)
            tried = self._try_step(
                self.splitting, self._history, self._plan(nodes, second & finite, again).plan, self.tol
            )
            self._count_active()
        self._move(planned, tried, judgement, second, again)
        next_h, stiff = control.decide(planned.nodes, planned.positions, report, judgement)
        for count, samples in zip(self._counts, (active & ~second, judgement.accepted, stiff), strict=True):
            np.add(count, samples, out=count)
        limited = self.give_up.limited(torch.from_numpy(next_h), h)
        self._finish(judgement, None if self._damping is not None else found[:, 8] > 0, limited)
        return limited

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S)."""
        x = self._history.x
        last = torch.where(per_sample(self.failed.to(x.device), x), torch.nan, x) if bool(self.failed.any()) else x
        return with_ends(self.x0, self._inner.states(), last, *self._ends())

    def replay(self, x: Tensor, splitting: Splitting, n1: Tensor) -> Tensor:
        """The states with gradients, from the accepted steps in segments."""
        inner, last = replay(
            self._func, splitting, x, n1, self._inner_tau, self._steps, self._slots, self._segments, self.tol,
            self.calls,
        )  # fmt: skip
        return with_ends(x, inner, last, *self._ends())

    def _warn_of(self, stiff: Tensor, solution: Solution) -> bool:
        """Warn once: of stiff steps, or of steps that f made short in units of 1/λ."""
        return super()._warn_of(stiff, solution) or warn_if_stiff(self._func, solution)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """τ of the output times between the first and the last one, and of the last one."""
        return torch.from_numpy(self._inner_tau).to(self.x0.device), self.axis.span.to(self.x0.device)

    def _time(self, tau: Tensor) -> Tensor:
        """The time at τ as f gets it, (N, 1, ..., 1)."""
        return per_sample(self.axis.time(tau, self.x0.dtype).to(self.x0.device), self.x0)

    def _plan(self, nodes: Nodes, second: Mask, again: Mask) -> PlannedStep:
        """The plan of a step."""
        return plan_step(nodes, self._time_of(nodes), self.axis.sign, self._damping, second, again, self.x0)

    def _time_of(self, nodes: Nodes) -> Floats:
        """The time after a step, rounded as the state is, (N,)."""
        return self.axis.time(torch.from_numpy(nodes.end), self.x0.dtype).numpy()

    @torch.no_grad()
    def _held(self, judgement: Judgement, planned: PlannedStep, tried: TriedStep) -> Judgement:
        """The judgement, in which no sample accepts a step with an event in it."""
        if self.events is None:
            return judgement
        inside = step_polynomial(planned, tried, self._history.x, self.splitting.lam)
        end, ok = torch.from_numpy(planned.nodes.end.copy()), torch.from_numpy(judgement.accepted)
        accepted = self.hold_before_events(inside, tried.x, end, ok).numpy()
        return judgement._replace(accepted=accepted, counts=(int(accepted.sum()), *judgement.counts[1:]))

    def _move(self, planned: PlannedStep, tried: TriedStep, judgement: Judgement, second: Mask, again: Mask) -> None:
        """Move the samples whose step is accepted, and keep the step if any sample needs it."""
        accepted, (n_accepted, n_waiting, *_), before = judgement.accepted, judgement.counts, self._history
        if n_accepted + n_waiting == 0:
            return
        lam, every = self.splitting.lam, n_accepted == len(accepted)
        slot = torch.from_numpy((planned.nodes.newest + 1) % self._slots).to(self.x0.device)
        reached = planned.nodes.end.copy() if every else np.where(accepted, planned.nodes.end, planned.nodes.begin)
        self.tau = torch.from_numpy(reached)
        self._inner.add(planned, tried, before.x, lam, accepted)
        if self.keep_pieces:
            # without gradients the next step writes into the history
            past = tried.past if torch.is_grad_enabled() else tried.past.clone()
            inside = step_polynomial(planned, tried._replace(past=past), before.x, lam)
            self.pieces.append((inside, self._flat(self.tau)))
        if self.keep_steps:
            kept, nodes = accepted | judgement.again, Nodes._make(values.copy() for values in planned.nodes)
            np.copyto(nodes.end, nodes.begin, where=~kept)
            self._steps.append(AcceptedStep(nodes, second & kept, again, accepted, slot, self.axis))
        mask = None if every else per_sample(torch.from_numpy(accepted).to(self.x0.device), self.x0)
        self._history = moved_history(before, tried, lam, self._first_slots + slot, mask)
        if every:
            self.splitting = tried.splitting
        elif not self.splitting.constant:
            self.splitting = self.splitting.at(self._time(self.tau), self._history.x)

    def _finish(self, judgement: Judgement, negative: Mask | None, next_h: Tensor) -> None:
        """Give a status to the samples that cannot continue, and end those that have reached the last time.

        Args:
            judgement: of the step.
            negative: the samples whose λ is negative; None if λ is a constant.
            next_h: the lengths to try next.
        """
        *_, n_rejected, n_finite = judgement.counts
        ending = self.active & (self.tau >= self.axis.span)
        if n_rejected:
            failing = torch.from_numpy(judgement.rejected) & (next_h <= self.axis.shortest_step(self.tau))
            if n_finite < len(failing):
                finite = torch.from_numpy(judgement.finite)
                failing = failing | self.give_up.given_up(self.active & ~finite, self.tau)
                self.fail(failing & ~finite, Status.NOT_FINITE)
                self.fail(failing & finite, Status.STEP_UNDERFLOW)
            elif failing.any():
                self.fail(failing, Status.STEP_UNDERFLOW)
            ending = ending | failing
        if negative is not None and negative.any():
            failing = torch.from_numpy(judgement.accepted & negative)
            self.fail(failing, Status.NEGATIVE_DAMPING)
            ending = ending | failing
        if ending.any():
            self.active = self.active & ~ending
            self._count_active()

    def _count_active(self) -> None:
        """Count the next calls of f for the active samples."""
        self._running = bool(self.active.any())
        self.calls.active = self.active.to(self.x0.device)


def _largest(values: Tensor) -> Tensor:
    """The largest value of every sample, NaN if it has one, (N,) float64."""
    return values.reshape(len(values), -1).amax(1).double()
