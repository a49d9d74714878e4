"""The loop of an adaptive exponential solve: trying steps, accepting them per sample, and output."""

import torch
from torch import Tensor

from dampode.integrators.adaptive_loop import AdaptiveLoop, InitialValueProblem
from dampode.integrators.dense_output import DenseOutput, Interpolant
from dampode.integrators.exponential.error_estimate import change_of_curve, third_difference
from dampode.integrators.exponential.replay import AcceptedStep, replay
from dampode.integrators.exponential.step import SampleState, StepFunction, TriedStep, initial_state
from dampode.integrators.exponential.stiffness import warn_if_errors_add_up, warn_if_stiff
from dampode.integrators.output_times import with_ends
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import estimated_first_step, probe_step
from dampode.integrators.stops import Restart

__all__ = ["ExponentialLoop"]


class ExponentialLoop(AdaptiveLoop):
    """One solve. Values per sample are (N, 1, ..., 1), so that they broadcast to the state.

    A sample that is done, or has failed, takes steps of length 0. These change nothing, to the last bit.

    Args:
        problem: what is solved.
        try_step: the step.
        segments: number of segments in which `replay` takes the accepted steps again.
    """

    def __init__(self, problem: InitialValueProblem, try_step: StepFunction, segments: int) -> None:
        x = problem.x
        super().__init__(problem, (len(x), *[1] * (x.ndim - 1)))
        self._func, self._try_step, self._segments = problem.func, try_step, segments
        n1 = self.splitting.nonlinear(self.axis.time(self.tau, x.dtype), x)
        self._state = initial_state(x, n1, self.tau)
        self._inner_tau = self.axis.tau(problem.times[..., 1:-1])
        self._dense = DenseOutput(x, self._inner_tau)
        self._steps: list[AcceptedStep | Restart] = []
        with torch.no_grad():
            lam, finite = self.splitting.lam.expand_as(x), torch.isfinite(_largest(n1.abs() + x.abs()))
            self.refuse(_largest(lam.real), self.splitting.has_negative_damping(x), finite)
        self._count_running()

    @property
    def running(self) -> bool:
        """Whether any sample is active."""
        return self._running

    @torch.no_grad()
    def first_step(self) -> Tensor:
        """An estimate of the length of a first step from where the samples are, from one call of f."""
        x, n1, axis = self._state.x, self._state.n1, self.axis
        probe = probe_step(self.splitting.lam, x, n1, self.tol).to(torch.float64).minimum(axis.stop - self.tau)
        time, signed = axis.time(self.tau + probe, x.dtype), (axis.sign * probe).to(x.dtype.to_real())
        first = estimated_first_step(self.splitting, x, n1, time, signed, self.tol).to(torch.float64)
        # a solve with a step of 0 or NaN would never end
        return torch.fmax(first, axis.shortest_step(self.tau)).clamp_(min=torch.finfo(x.dtype).tiny)

    def restart(self, restart: Restart) -> None:
        """Change the states of some samples. Each of them has then no step before."""
        if self.keep_steps:
            self._steps.append(restart)
        x = restart.change(self._state.x)
        samples, t = restart.samples.reshape(self.tau.shape), self.axis.time(self.tau, x.dtype)
        self.splitting = self.splitting.at(t, x)
        fresh = initial_state(x, self.splitting.nonlinear(t, x), self.tau)
        self._state = SampleState(
            *(torch.where(samples, new, old) for new, old in zip(fresh, self._state, strict=True))
        )
        self._count_running()

    def _count_running(self) -> None:
        """Note which samples run, of those that are before their stops."""
        waiting = self.failed & (self.tau < self.axis.stop)
        n_active: int
        self._n_failed, n_active = torch.stack((waiting.sum(), self.active.sum())).tolist()
        self._running = n_active > 0

    def advance(self, h: Tensor) -> Tensor:
        """Try one step of length ``h`` for every active sample. Returns the lengths to try next."""
        self.calls.active = self.active.reshape(-1)
        tried = accepted = self._try_step(self.splitting, self._state, h, self.axis, self.tol)
        n_ok, n_finite, n_stuck, n_running = tried.counts.tolist()  # the only value that a step reads
        ok = tried.ok
        if self.events is not None:
            with torch.no_grad():
                ok = self.hold_before_events(self._inside(tried), tried.state.x, tried.state.tau, ok)
                n_ok = int(ok.sum())
        self.attempted, self.accepted = self.attempted + self.active, self.accepted + (ok & self.active)
        self.stiff_steps = self.stiff_steps + (tried.stiff & self.active)
        if n_ok and n_finite < len(h) and torch.is_grad_enabled():
            # A value that is not finite gives NaN gradients even where `where` drops it. Repeat the step without it.
            self.calls.active = (self.active & ~tried.finite).reshape(-1)
            accepted = self._try_step(self.splitting, self._state, torch.where(ok, h, 0.0), self.axis, self.tol)
        if n_ok:
            self._accept(accepted, ok, n_ok == len(h))
        next_h = self.give_up.limited(tried.next_h, h)
        if n_stuck or n_finite < len(h):
            next_h = self._fail(tried, next_h)
        self.active = self.active & tried.running
        self._running = n_running > self._n_failed
        if self.events is not None:  # a step that is held back did not bring its sample to a stop
            self.active = (self.tau < self.axis.stop) & ~self.failed
            self._count_running()
        return next_h

    def _inside(self, tried: TriedStep) -> Interpolant:
        """The states inside a step."""
        before, step = self._state, tried.krogstad
        change = change_of_curve(step.curve, tried.state.last_h, before.last_curve, before.last_h)
        cubic = third_difference(change)
        return Interpolant(before.x, before.n1, step.slope, step.curve, cubic, self.splitting.lam, tried.h)

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S)."""
        failed, x = self.failed, self._state.x
        last = torch.where(failed, torch.nan, x) if bool(failed.any()) else x
        return with_ends(self.x0, self._dense.states(), last, self._inner_tau, self.axis.span)

    def replay(self, x: Tensor, splitting: Splitting, n1: Tensor) -> Tensor:
        """The states with gradients, from the accepted steps in segments."""
        steps, tau = self._steps, self._inner_tau
        inner, last = replay(self._func, x, n1, tau, steps, self._segments, self.calls)
        return with_ends(x, inner, last, tau, self.axis.span)

    def _warn_of(self, stiff: Tensor, solution: Solution) -> bool:
        """Warn once: of stiff steps, of errors that add up, or of steps that f made short in units of 1/λ."""
        return (
            super()._warn_of(stiff, solution)
            or warn_if_errors_add_up(torch.where(self.failed, 0.0, self._state.crept_error))
            or warn_if_stiff(self._func, solution)
        )

    def _accept(self, tried: TriedStep, ok: Tensor, all_ok: bool) -> None:
        """Move the samples whose step is accepted."""
        before, new = self._state, tried.state
        if self.keep_steps:
            self._steps.append(AcceptedStep(before.tau, torch.where(ok, new.tau, before.tau), before.last_h, self.axis))
        if self._dense.needed or self.keep_pieces:
            inside, end = self._inside(tried), torch.where(ok, new.tau, before.tau).reshape(-1)
            self._dense.add(inside, end)
            if self.keep_pieces:
                self.pieces.append((inside, end))
        if all_ok:
            self.splitting, self._state = tried.splitting, new
        else:
            self._state = SampleState(*(torch.where(ok, now, then) for now, then in zip(new, before, strict=True)))
            x = self._state.x
            self.splitting = self.splitting.at(self.axis.time(self._state.tau, x.dtype), x)
        self.tau = self._state.tau

    @torch.no_grad()
    def _fail(self, tried: TriedStep, next_h: Tensor) -> Tensor:
        """Give a status to the samples that cannot continue. Returns the lengths to try next, 0 for those."""
        given_up = self.give_up.given_up(self.active & ~tried.finite, self.tau)
        failing = (tried.stuck & self.active) | given_up
        self.fail(failing & tried.finite, Status.STEP_UNDERFLOW)
        self.fail(failing & ~tried.finite, Status.NOT_FINITE)
        self.fail(failing & tried.ok, Status.NEGATIVE_DAMPING)
        self.active = self.active & ~self.failed
        self._n_failed = int((self.failed & tried.running).sum())
        return torch.where(self.failed, 0.0, next_h)


def _largest(values: Tensor) -> Tensor:
    """The largest value of every sample, NaN if it has one, (N, 1, ..., 1)."""
    return values.reshape(len(values), -1).amax(1).reshape(-1, *[1] * (values.ndim - 1))
