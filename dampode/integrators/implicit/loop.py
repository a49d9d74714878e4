"""The loop of an adaptive implicit solve: trying steps, accepting them per sample, and output."""

import torch
from torch import Tensor

from dampode.integrators.adaptive_loop import AdaptiveLoop, InitialValueProblem
from dampode.integrators.dense_output import Interpolant, interpolant_between
from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.iteration import Iteration
from dampode.integrators.implicit.newton import finite_differences
from dampode.integrators.implicit.replay import AcceptedStep, replay
from dampode.integrators.implicit.stages import Stages
from dampode.integrators.output_times import with_ends
from dampode.integrators.solution import Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import MIN_LOG_RATIO, log_error_ratio, predictive_factor, step_factor
from dampode.integrators.stops import Restart
from dampode.integrators.time_axis import TimeAxis

__all__ = ["ImplicitLoop"]


class ImplicitLoop(AdaptiveLoop):
    """One solve without a graph. States are (N, d) and values per sample (N, 1).

    Args:
        problem: what is solved.
        iterate: does one iteration of the stages.
    """

    def __init__(self, problem: InitialValueProblem, iterate: Iteration) -> None:
        x, tol = problem.x, problem.tol
        super().__init__(problem, (len(x), 1))
        self._linear_rtol = 0.1 * tol.smallest_rtol
        # the error estimate of a shorter tolerance would be rounding
        self.tol = tol.at_least(10 * torch.finfo(x.dtype).eps).flattened(x)
        self._x = x.reshape(len(x), -1)
        self._lam = _flat_damping(self.splitting.lam, x)
        self._slope = self._nonlinear(self.tau, self._x, self.active) - self._lam * self._x
        """F(x, t)."""
        self._stages = Stages(self._x, self.axis.span, self.tol, iterate)
        self._last_log_ratio = torch.zeros_like(self._x[:, :1])
        self._last_h = torch.zeros_like(self.tau)
        """Length of the last accepted step; 0 where there is none."""
        finite = torch.isfinite(self._x + self._slope).all(1, keepdim=True)
        self.refuse(self._lam.amax(1, keepdim=True), self._has_negative_damping(), finite)
        self._inner_tau = self.axis.tau(problem.times[..., 1:-1])
        self._outputs = x.new_full((self._inner_tau.shape[-1], *self._x.shape), torch.nan)
        self._steps: list[AcceptedStep | Restart] = []

    @property
    def running(self) -> bool:
        """Whether any sample is active."""
        return bool(self.active.any())

    def first_step(self) -> Tensor:
        """A step over which x moves by √rtol of itself, and as much off its tangent, but at most 0.1 / λ.

        This is a cautious start: later steps may grow tenfold each. Where F is 0 now and after such a step, it is a
        hundredth of the span.
        """
        far, size = self.tol.smallest_rtol**-0.5, self._x.abs()
        speed = self.tol.ratio(self._slope, size).to(torch.float64)
        lam = self._lam.abs().amax(1, keepdim=True).to(torch.float64)
        h: Tensor = (far / speed.nan_to_num(1e8, 1e8)).clamp(max=0.01 * self.axis.span)
        h = h.clamp(max=0.1 / lam.clamp(min=0.1 / self.axis.span))
        trial = torch.addcmul(self._x, (self.axis.sign * h).to(self._x.dtype), self._slope)
        change = self._nonlinear(self.tau + h, trial, self.active) - self._lam * trial - self._slope
        bend = self.tol.ratio(change, size).to(torch.float64) / h
        return torch.minimum(h, (2 * far / bend).sqrt()).nan_to_num(0.0).clamp(min=self.axis.shortest_step(self.tau))

    def restart(self, restart: Restart) -> None:
        """Change the states of some samples. Each of them has then no step before."""
        if self.keep_steps:
            self._steps.append(restart)
        samples = restart.samples[:, None]
        x = restart.change(self._x.reshape(self.x0.shape))
        self.splitting = self.splitting.at(self._shaped(self.axis.time(self.tau, x.dtype)), x)
        self._x, self._lam = x.reshape(self._x.shape), _flat_damping(self.splitting.lam, x)
        slope = self._nonlinear(self.tau, self._x, samples) - self._lam * self._x
        self._slope = torch.where(samples, slope, self._slope)
        self._stages.restart(self._x, samples)
        self._last_log_ratio = self._last_log_ratio.masked_fill(samples, 0.0)
        self._last_h = self._last_h.masked_fill(samples, 0.0)

    def advance(self, h: Tensor) -> Tensor:
        """Try one step of length ``h``, (N, 1), for every active sample. Returns the lengths to try next."""
        active, stages = self.active, self._stages
        left = self.axis.stop - self.tau
        last = h >= left - self.axis.shortest  # the way left after the step would be too short for another one
        end = torch.where(active, torch.where(last, self.axis.stop, self.tau + h), self.tau)
        h = torch.where(active, torch.where(last, left, h), 0.0)
        signed = (self.axis.sign * h).to(self._x.dtype)
        ends = torch.cat((self.tau, end), 1)
        self._take_jacobians()
        converged, again, finite = stages.solve(self._nonlinear, ends, signed, self._slope, self._lam, active)
        error, h_slope = stages.error_and_slope()
        ratio = self.tol.ratio(error, torch.maximum(self._x.abs(), stages.end_state.abs()))
        ok, log_ratio = converged & (ratio <= 1), log_error_ratio(ratio)
        if self.events is not None:
            inside, after = self._inside(end, signed, h_slope), stages.end_state.reshape(self.x0.shape)
            ok = self.hold_before_events(inside, after, end, ok)
        factor = step_factor(log_ratio, ok, self._last_log_ratio)
        bound = predictive_factor(log_ratio, self._last_log_ratio, h / torch.where(self._last_h > 0, self._last_h, h))
        factor = torch.where(ok & (self._last_h > 0), torch.minimum(factor, bound), factor)
        next_h = h * torch.where(converged, factor, torch.where(again, 1.0, 0.25))
        self._last_log_ratio = torch.where(ok, log_ratio.clamp(min=MIN_LOG_RATIO), self._last_log_ratio)
        self._last_h = torch.where(ok, h, self._last_h)
        self.attempted, self.accepted = self.attempted + active, self.accepted + ok
        next_h, rejected = self.give_up.limited(next_h, h), active & ~ok
        any_ok, any_rejected = torch.stack((ok.any(), rejected.any())).tolist()
        if any_rejected:
            # a step whose equations cannot be solved need not become as short as near t = 0 an accurate one may be
            shortest = torch.where(converged, self.axis.shortest_step(self.tau), self.axis.shortest)
            self._reject(rejected, next_h <= shortest, converged, rejected & ~finite)
        end = torch.where(ok, end, self.tau)
        self._write_output(end, h, h_slope)
        if self.keep_pieces and any_ok:
            self.pieces.append((self._inside(end, signed, h_slope), end[:, 0]))
        if self.keep_steps and any_ok:
            self._keep(torch.where(ok, h, 0.0), end)
        self._accept(ok, end, h_slope / torch.where(ok, signed, 1.0))
        return next_h

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S)."""
        last = torch.where(self.failed, torch.nan, self._x).reshape(self.x0.shape)
        inner = self._outputs.reshape(-1, *self.x0.shape)
        return with_ends(self.x0, inner, last, self._inner_tau, self.axis.span)

    def replay(self, x: Tensor, splitting: Splitting, n1: Tensor) -> Tensor:
        """The states with gradients, by implicit differentiation of the converged stages."""
        slope = n1 - splitting.lam * x
        tau, axis = self._inner_tau, self._shaped_axis()
        pieces = self.pieces if self.keep_pieces else None
        if pieces is not None:
            pieces.clear()
        inner, last = replay(splitting, x, slope, tau, self._steps, self._linear_rtol, self.calls, pieces)
        return with_ends(x, inner, last, tau, axis.span)

    def _shaped(self, per_sample: Tensor) -> Tensor:
        """(N, 1) as (N, 1, ..., 1), which broadcasts to the state."""
        return per_sample.reshape(-1, *[1] * (self.x0.ndim - 1))

    def _shaped_axis(self) -> TimeAxis:
        """The time axis with values per sample in the shape (N, 1, ..., 1)."""
        return self.axis.shaped((len(self.x0), *[1] * (self.x0.ndim - 1)))

    def _nonlinear(self, tau: Tensor, x: Tensor, solving: Tensor) -> Tensor:
        """N of flat states, (N, d). The call counts for the samples that are ``solving``."""
        self.calls.active = solving[:, 0]
        time = self._shaped(self.axis.time(tau, x.dtype))
        return self.splitting.nonlinear(time, x.reshape(self.x0.shape)).reshape(x.shape).to(x)

    def _has_negative_damping(self) -> Tensor:
        """Whether a sample's λ is negative or NaN anywhere, (N, 1)."""
        return self.splitting.has_negative_damping(self._x.reshape(self.x0.shape)).reshape(-1, 1)

    def _take_jacobians(self) -> None:
        """Give the samples that need it ∂F/∂x at their present states."""
        wanted = self._stages.needs_jacobian(self.active)
        if bool(wanted.any()):
            jacobian = finite_differences(lambda x: self._nonlinear(self.tau, x, wanted), self._x, self.tol)
            jacobian.diagonal(0, 1, 2).sub_(self._lam)
            self._stages.set_jacobian(jacobian, wanted)

    def _accept(self, ok: Tensor, end: Tensor, slope: Tensor) -> None:
        """Move the samples whose step is accepted to its end."""
        self._stages.end(ok)
        self.tau, self._x = end, self._stages.start_state
        self._slope = torch.where(ok, slope, self._slope)
        time = self._shaped(self.axis.time(end, self._x.dtype))
        splitting = self.splitting.at(time, self._x.reshape(self.x0.shape))
        if splitting is not self.splitting:
            self.splitting, self._lam = splitting, _flat_damping(splitting.lam, self.x0)
            self.fail(ok & self._has_negative_damping(), Status.NEGATIVE_DAMPING)
        self.active = (self.tau < self.axis.stop) & ~self.failed

    def _reject(self, rejected: Tensor, too_short: Tensor, converged: Tensor, nonfinite: Tensor) -> None:
        """Give a status to the samples that cannot go on; ``nonfinite`` are those whose f was not finite."""
        given_up = self.give_up.given_up(nonfinite, self.tau)
        self.fail(rejected & too_short, Status.STEP_UNDERFLOW)
        self.fail(rejected & too_short & ~converged, Status.INNER_SOLVE_FAILED)
        self.fail(given_up | (nonfinite & too_short), Status.NOT_FINITE)

    def _write_output(self, end: Tensor, h: Tensor, h_slope: Tensor) -> None:
        """Write the states at the output times inside the steps, at whose ends h F is ``h_slope``."""
        tau = self._inner_tau.expand(len(self.tau), -1)
        sample, output = ((self.tau <= tau) & (tau < end)).nonzero(as_tuple=True)
        theta = ((tau[sample, output, None] - self.tau[sample]) / h[sample]).to(self._x.dtype)
        stages = self._stages
        ends = (stages.start_state, stages.start_slope, stages.end_state, h_slope)
        self._outputs[output, sample] = tableau.hermite(theta, *(value[sample] for value in ends))

    def _inside(self, end: Tensor, h: Tensor, h_slope: Tensor) -> Interpolant:
        """The states inside a step to τ = ``end`` of the signed length ``h``, at whose end h F is ``h_slope``.

        A sample whose τ does not change has a step of length 0.
        """
        moved, x = end > self.tau, self._x
        after = torch.where(moved, self._stages.end_state, x)
        end_slope = torch.where(moved, h_slope / torch.where(moved, h, 1.0), self._slope)
        h = torch.where(moved, h, 0.0)
        inside = interpolant_between(x, self._slope, after, end_slope, torch.zeros_like(h), h)
        return Interpolant(
            *(value.reshape(self.x0.shape) if value.shape == x.shape else self._shaped(value) for value in inside)
        )

    def _keep(self, h: Tensor, end: Tensor) -> None:
        """Keep a step for `replay`."""
        stages = [stage.reshape(self.x0.shape) for stage in self._stages.converged_stages()]
        begin, end, axis = self._shaped(self.tau), self._shaped(end), self._shaped_axis()
        self._steps.append(AcceptedStep(self._shaped(h), begin, end, stages, axis))


def _flat_damping(lam: Tensor, x: Tensor) -> Tensor:
    """λ as (N, 1) where it is one number per sample, else as (N, d)."""
    lam = lam.reshape(*[1] * (x.ndim - lam.ndim), *lam.shape)
    shape = (len(x), *[1] * (x.ndim - 1)) if lam[0].numel() == 1 else x.shape
    return lam.expand(shape).reshape(len(x), -1)
