"""The loop of an exponential Adams solve: the host chooses the steps, the device takes them."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.adaptive_loop import AdaptiveLoop
from dampode.integrators.call_counter import CallCounter
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
from dampode.integrators.tolerance import Tolerance

__all__ = ["AdamsLoop"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class AdamsLoop(AdaptiveLoop):
    """One solve. Values per sample are (N,) and on the CPU, where the steps are chosen.

    A sample that is done, or has failed, takes steps of length 0. These change nothing, to the last bit.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: (T,), or (N, T) without padding, monotonic in one direction.
        tol: tolerance of a step.
        calls: counts the calls of f.
        try_step: the step.
        max_order: the largest order of the predictor.
        segments: number of segments in which `replay` takes the accepted steps again.
    """

    def __init__(
        self,
        func: DampedODEFunc,
        x: Tensor,
        times: Tensor,
        tol: Tolerance,
        calls: CallCounter,
        try_step: StepFunction,
        max_order: int,
        segments: int,
    ) -> None:
        super().__init__(func, x, times, tol, calls, (len(x),), torch.device("cpu"))
        self._func, self._try_step, self._segments = func, try_step, segments
        self._slots = max_order + 2
        n1 = self.splitting.nonlinear(self._time(self.tau), x).to(x.dtype)
        self._damping = sample_damping(self.splitting, x)
        self._history = first_history(self.splitting, x, n1, self._slots)
        # a correction that moves x by less than ten thousand rounding errors does not measure |∂N/∂x|
        self._control = OrderControl(len(x), max_order, 1e4 * torch.finfo(x.dtype).eps / tol.smallest_rtol)
        self._weight = np.zeros(len(x))
        self._first_slots = self._slots * torch.arange(len(x), device=x.device)
        self._inner_tau = self.axis.tau(times[..., 1:-1].cpu()).numpy()
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
        judgement = control.judge(planned.nodes, planned.positions, report)
        judgement = judgement._replace(accepted=self._moving(judgement.accepted, planned, tried))
        next_h, stiff = control.decide(planned.nodes, planned.positions, report, judgement)
        self.attempted += torch.from_numpy(active & ~second)
        self.accepted += torch.from_numpy(judgement.accepted)
        self.stiff_steps += torch.from_numpy(stiff)
        if not judgement.finite.all() and torch.is_grad_enabled():
            # A value that is not finite gives NaN gradients even where `where` drops it. Repeat the step without it.
            finite = judgement.finite
            nodes = planned.nodes._replace(end=np.where(finite, planned.nodes.end, planned.nodes.begin))
            self.calls.active = torch.from_numpy(active & ~finite).to(self.x0.device)
            tried = self._try_step(
                self.splitting, self._history, self._plan(nodes, second & finite, again).plan, self.tol
            )
            self._count_active()
        self._move(planned, tried, judgement, second, again)
        limited = self.give_up.limited(torch.from_numpy(next_h), h)
        negative = found[:, 8] > 0 if self._damping is None else np.zeros_like(second)
        self._finish(judgement, negative, limited)
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
        return self.axis.time(torch.from_numpy(nodes.end), self.x0.dtype).double().numpy()

    @torch.no_grad()
    def _moving(self, accepted: Mask, planned: PlannedStep, tried: TriedStep) -> Mask:
        """The samples that accept a step and have no event in it."""
        if self.events is None:
            return accepted
        inside = step_polynomial(planned, tried, self._history.x, self.splitting.lam)
        end, ok = torch.from_numpy(planned.nodes.end), torch.from_numpy(accepted)
        return self.hold_before_events(inside, tried.x, end, ok).numpy()

    def _move(self, planned: PlannedStep, tried: TriedStep, judgement: Judgement, second: Mask, again: Mask) -> None:
        """Move the samples whose step is accepted, and keep the step if any sample needs it."""
        accepted, waiting, before = judgement.accepted, judgement.again, self._history
        if not (accepted.any() or waiting.any()):
            return
        lam, every = self.splitting.lam, bool(accepted.all())
        slot = torch.from_numpy((planned.nodes.newest + 1) % self._slots).to(self.x0.device)
        self._inner.add(planned, tried, before.x, lam, accepted)
        if self.keep_pieces:
            # without gradients the next step writes into the history
            past = tried.past if torch.is_grad_enabled() else tried.past.clone()
            inside = step_polynomial(planned, tried._replace(past=past), before.x, lam)
            self.pieces.append(
                (inside, self._flat(torch.from_numpy(np.where(accepted, planned.nodes.end, planned.nodes.begin))))
            )
        if self.keep_steps:
            nodes, kept = planned.nodes, accepted | waiting
            nodes = nodes._replace(end=np.where(kept, nodes.end, nodes.begin))
            self._steps.append(AcceptedStep(nodes, second & kept, again, accepted, slot, self.axis))
        mask = None if every else per_sample(torch.from_numpy(accepted).to(self.x0.device), self.x0)
        self._history = moved_history(before, tried, lam, self._first_slots + slot, mask)
        self.tau = torch.from_numpy(self._control.tau.copy())
        if every:
            self.splitting = tried.splitting
        else:
            self.splitting = self.splitting.at(self._time(self.tau), self._history.x)

    def _finish(self, judgement: Judgement, negative: Mask, next_h: Tensor) -> None:
        """Give a status to the samples that cannot continue, and end those that have reached the last time."""
        if judgement.rejected.any():
            rejected, finite = torch.from_numpy(judgement.rejected), torch.from_numpy(judgement.finite)
            failing = rejected & (next_h <= self.axis.shortest_step(self.tau))
            if not judgement.finite.all():
                failing = failing | self.give_up.given_up(self.active & ~finite, self.tau)
            self.fail(failing & finite, Status.STEP_UNDERFLOW)
            self.fail(failing & ~finite, Status.NOT_FINITE)
        if negative.any():
            self.fail(torch.from_numpy(judgement.accepted & negative), Status.NEGATIVE_DAMPING)
        if judgement.rejected.any() or negative.any() or (self._control.tau >= self.axis.span.numpy()).any():
            self.active = self.active & (self.tau < self.axis.span) & ~self.failed
            self._count_active()

    def _count_active(self) -> None:
        """Count the next calls of f for the active samples."""
        self._running = bool(self.active.any())
        self.calls.active = self.active.to(self.x0.device)


def _largest(values: Tensor) -> Tensor:
    """The largest value of every sample, NaN if it has one, (N,) float64."""
    return values.reshape(len(values), -1).amax(1).double()
