"""The loop of an adaptive exponential solve: trying steps, accepting them per sample, and output."""

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.adaptive_loop import AdaptiveLoop
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential.dense_output import DenseOutput, Interpolant
from dampode.integrators.exponential.error_estimate import change_of_curve, third_difference
from dampode.integrators.exponential.replay import AcceptedStep, replay
from dampode.integrators.exponential.step import SampleState, StepFunction, TriedStep, initial_state
from dampode.integrators.exponential.stiffness import LARGEST_CREPT_ERROR, warn_if_stiff
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import Tolerance, estimated_first_step, probe_step

__all__ = ["ExponentialLoop"]


class ExponentialLoop(AdaptiveLoop):
    """One solve. Values per sample are (N, 1, ..., 1), so that they broadcast to the state.

    A sample that is done, or has failed, takes steps of length 0. These change nothing, to the last bit.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
        calls: counts the calls of f.
        try_step: the step.
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
        segments: int,
    ) -> None:
        super().__init__(func, x, times, tol, calls, (len(x), *[1] * (x.ndim - 1)))
        self._func, self._try_step, self._segments = func, try_step, segments
        n1 = self.splitting.nonlinear(self.axis.time(self.tau, x.dtype), x)
        self._state = initial_state(x, n1, self.tau)
        self._dense = DenseOutput(x, self.axis.tau(times[1:-1]))
        self._steps: list[AcceptedStep] = []
        with torch.no_grad():
            lam, finite = self.splitting.lam.expand_as(x), torch.isfinite(_largest(n1.abs() + x.abs()))
            self.refuse(_largest(lam), self.splitting.has_negative_damping(x), finite)
        self._n_failed = int(self.failed.sum())
        self._running = self._n_failed < len(x)

    @property
    def running(self) -> bool:
        """Whether any sample is active."""
        return self._running

    @torch.no_grad()
    def first_step(self) -> Tensor:
        """An estimate of the length of the first step, from one call of f."""
        x, n1, axis = self._state.x, self._state.n1, self.axis
        probe = probe_step(self.splitting.lam, x, n1, self.tol).to(torch.float64).clamp_(max=axis.span)
        time, signed = axis.time(probe, x.dtype), (axis.sign * probe).to(x.dtype)
        first = estimated_first_step(self.splitting, x, n1, time, signed, self.tol).to(torch.float64)
        # a solve with a step of 0 or NaN would never end
        return torch.fmax(first, axis.shortest_first).clamp_(min=torch.finfo(x.dtype).tiny)

    def advance(self, h: Tensor) -> Tensor:
        """Try one step of length ``h`` for every active sample. Returns the lengths to try next."""
        self.calls.active = self.active.reshape(-1)
        tried = accepted = self._try_step(self.splitting, self._state, h, self.axis, self.tol)
        n_ok, n_finite, n_stuck, n_running = tried.counts.tolist()  # the only value that a step reads
        self.attempted, self.accepted = self.attempted + self.active, self.accepted + (tried.ok & self.active)
        self.stiff_steps = self.stiff_steps + (tried.stiff & self.active)
        if n_ok and n_finite < len(h) and torch.is_grad_enabled():
            # A value that is not finite gives NaN gradients even where `where` drops it. Repeat the step without it.
            self.calls.active = (self.active & ~tried.finite).reshape(-1)
            accepted = self._try_step(self.splitting, self._state, torch.where(tried.ok, h, 0.0), self.axis, self.tol)
        if n_ok:
            self._accept(accepted, tried.ok, n_ok == len(h))
        next_h = self.give_up.limited(tried.next_h, h)
        if n_stuck or n_finite < len(h):
            next_h = self._fail(tried, next_h)
        self.active = self.active & tried.running
        self._running = n_running > self._n_failed
        return next_h

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S)."""
        failed, x = self.failed, self._state.x
        last = torch.where(failed, torch.nan, x) if bool(failed.any()) else x
        return torch.cat((self.x0[None], self._dense.states(), last[None]))

    def replay(self, splitting: Splitting, n1: Tensor) -> Tensor:
        """The states with gradients, from the accepted steps in segments."""
        inner_tau = self.axis.tau(self.times[1:-1])
        return replay(self._func, self.x0, n1, inner_tau, self.axis, self._steps, self._segments, self.calls)

    def _warn_of(self, stiff: Tensor, solution: Solution) -> bool:
        """Warn once of stiff steps, or of a stiff f that made steps short in units of 1/λ."""
        found = super()._warn_of(stiff, solution)
        if not found:
            warn_if_stiff(self._func, solution)
        return found

    def _accept(self, tried: TriedStep, ok: Tensor, all_ok: bool) -> None:
        """Move the samples whose step is accepted."""
        before, new = self._state, tried.state
        if self.keep_steps:
            self._steps.append(AcceptedStep(before.tau, new.tau, before.last_h))
        if self._dense.needed:
            step, lam, tau = tried.krogstad, self.splitting.lam, new.tau.reshape(-1)
            cubic = third_difference(change_of_curve(step.curve, new.last_h, before.last_curve, before.last_h))
            self._dense.add(Interpolant(before.x, before.n1, step.slope, step.curve, cubic, lam, tried.h, tau))
        if all_ok:
            self.splitting, self._state = tried.splitting, new
        else:
            self._state = SampleState(*(torch.where(ok, now, then) for now, then in zip(new, before, strict=True)))
            self.splitting = self.splitting.at(self._state.x)
        self.tau = self._state.tau

    @torch.no_grad()
    def _fail(self, tried: TriedStep, next_h: Tensor) -> Tensor:
        """Give a status to the samples that cannot continue. Returns the lengths to try next, 0 for those."""
        given_up = self.give_up.given_up(self.active & ~tried.finite, self.tau)
        failing = (tried.stuck & self.active) | given_up
        self.fail(failing & tried.finite, Status.STEP_UNDERFLOW)
        self.fail(failing & ~tried.finite, Status.NOT_FINITE)
        self.fail(failing & tried.ok, Status.NEGATIVE_DAMPING)
        self.fail(failing & (tried.state.crept_error > LARGEST_CREPT_ERROR), Status.ERRORS_ADD_UP)
        self.active = self.active & ~self.failed
        self._n_failed = int((self.failed & tried.running).sum())
        return torch.where(self.failed, 0.0, next_h)


def _largest(values: Tensor) -> Tensor:
    """The largest value of every sample, NaN if it has one, (N, 1, ..., 1)."""
    return values.reshape(len(values), -1).amax(1).reshape(-1, *[1] * (values.ndim - 1))
