"""What integrators to a tolerance share: settings, the checks and the course of a solve, and time gradients."""

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive, require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.integrators.adaptive_loop import AdaptiveLoop, InitialValueProblem, ProgressBar
from dampode.integrators.base import IntegrationError, Integrator, LayOut, require_call, require_single
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.dense_solution import dense_solution
from dampode.integrators.event_search import EventSearch, EventSettings
from dampode.integrators.event_solution import EventSolution, collected
from dampode.integrators.jumps import Jumps
from dampode.integrators.sample_independence import IndependenceProbe
from dampode.integrators.sample_times import columns, first_times
from dampode.integrators.shifts import per_sample
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.stops import Stops
from dampode.integrators.time_gradients import with_output_time_gradients, with_start_time_gradient
from dampode.integrators.tolerance import Tolerance, Tolerances, require_tolerance

__all__ = ["TolerantIntegrator"]


@dataclass(frozen=True)
class TolerantIntegrator(Integrator):
    """An integrator with a tolerance and a step size per sample. A subclass supplies the loop of the solve.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0: numbers, or tensors that broadcast to the state. For a
            structured state also a tuple, list or dict of these, a value for each part.
        max_steps: largest number of steps that a sample may try, accepted and rejected together.
        first_step: bound of the first step, at the start and after a jump, > 0; None sets no bound. The integrator
            estimates a first step from f and takes the shorter of the two.
        max_step: length of the longest step, > 0; None sets no bound.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile the arithmetic of a step by torch.compile.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type. In a solve: a state of half precision;
            an f that `IndependenceProbe` finds random, or in which samples depend on one another (one system is
            x[None]).
    """

    rtol: Tolerances = field(default=1e-4, hash=False)  # a dict or a list has no hash
    atol: Tolerances = field(default=1e-6, hash=False)
    max_steps: int = 100_000
    first_step: float | None = None
    max_step: float | None = None
    progress: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_tolerance(self.rtol, "rtol")
        require_tolerance(self.atol, "atol")
        require_positive_int(self.max_steps, "max_steps")
        if self.first_step is not None:
            require_positive(self.first_step, "first_step")
        if self.max_step is not None:
            require_positive(self.max_step, "max_step")
        require_instance(self.progress, bool, "progress")
        require_instance(self.compile, bool, "compile")

    @property
    @abstractmethod
    def _replays(self) -> bool:
        """Whether a solve runs without a graph and then takes its accepted steps again, if gradients are wanted."""

    @property
    def _dense_error(self) -> bool:
        """Whether the last term of the dense output estimates its error."""
        return False

    @abstractmethod
    def _loop(self, problem: InitialValueProblem) -> AdaptiveLoop:
        """The loop of a solve, at its start."""

    def _first_step(self, loop: AdaptiveLoop) -> Tensor:
        """The length of a first step from where the samples are: the loop's estimate, at most ``first_step``."""
        estimate = loop.first_step()
        return estimate if self.first_step is None else estimate.clamp(max=self.first_step)

    def laid_out(self, flat: LayOut) -> Self:
        """This integrator with the tolerances of a structured state laid out as the state is."""
        return replace(self, rtol=flat(self.rtol, "rtol"), atol=flat(self.atol, "atol"))

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, (N, *S)."""
        require_call(func, x, t0, t1)
        if t0 == t1:
            return x
        return self.trajectory(func, x, torch.tensor([t0, t1], dtype=torch.float64))[-1]

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Tensor:
        """The states at all ``times``, or an IntegrationError if a sample fails."""
        solution = self._solution(func, x, times, jumps)
        failure = solution.failure()
        if failure is not None:
            raise IntegrationError(failure)
        return solution.x

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """The states with statistics and a status per sample."""
        return self._solution(func, x, times, jumps, dense)

    def solve_events(
        self, func: DampedODEFunc, x: Tensor, span: Tensor, settings: EventSettings, jumps: Jumps | None
    ) -> EventSolution:
        """The events of each sample between two times, (2,) or (N, 2), and where its solve ended."""
        solution, events = self._course(func, x, span, jumps, False, settings)
        if events is None:
            raise AssertionError("a solve with settings for events searches for them")
        ended, found, last = events.ended < torch.inf, events.found, solution.x[-1]
        times, states, which = collected(events.records, found, last)
        # a sample without its last event was solved to the last time, with its gradient, or as far as it came
        solved = torch.tensor([status is Status.SUCCESS for status in solution.status], device=last.device)
        t1 = torch.where(solved, span[..., -1].to(solution.reached), solution.reached)
        if len(times):
            t1 = torch.where(ended, times.gather(0, (found - 1).clamp(min=0)[None])[0], t1)
        return EventSolution(t1, last, ended, found, times, states, which, solution.nfe, solution.status)

    def _solution(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None, dense: bool = False
    ) -> Solution:
        """The solution without events."""
        return self._course(func, x, times, jumps, dense, None)[0]

    def _course(
        self,
        func: DampedODEFunc,
        x: Tensor,
        times: Tensor,
        jumps: Jumps | None,
        dense: bool,
        settings: EventSettings | None,
    ) -> tuple[Solution, EventSearch | None]:
        """The whole course of a solve. The `while` loop is here, and not in a method of the loop, to save a frame."""
        require_single(x)
        calls = CallCounter(x)
        stops = Stops(func, x, times, jumps, calls)
        x = stops.at_start(x)
        start = with_start_time_gradient(func, x, first_times(times), calls) if times.requires_grad else x
        differentiable = _start_with_graph(func, start, times, calls) if self._replays else None
        with torch.no_grad() if self._replays else nullcontext():
            # f may cut a part from the state and differentiate by it: where gradients are off, torch's part of a state
            # that wants a gradient wants one too, but without a graph
            begin = start if differentiable is None else start.detach()
            tol = Tolerance.of(self.rtol, self.atol, begin)
            loop = self._loop(InitialValueProblem(func, begin, times.detach(), tol, calls))
            loop.keep_steps, loop.keep_pieces = differentiable is not None, dense
            probe = IndependenceProbe(func, calls, loop.tol, loop.axis.span)
            if settings is not None:
                stops.events = EventSearch(settings, func, start, stops.axis, calls)
            stopping = stops.any
            if stopping:
                loop.begin_at(stops)
            first_step = partial(self._first_step, loop)
            h, tries = torch.where(loop.active, first_step(), 0.0), 0
            with ProgressBar(loop.axis.span) if self.progress else nullcontext() as bar:
                while loop.running and tries < self.max_steps:
                    h = loop.advance(h if self.max_step is None else h.clamp(max=self.max_step))
                    tries += 1
                    if stopping:
                        h = loop.pass_stops(stops, h, first_step)
                    if probe.due(tries) and loop.running:
                        probe.check(loop.active)
                    if bar is not None:
                        bar.show(loop.tau)
            probe.check(torch.ones_like(loop.active))
            loop.fail(loop.active, Status.MAX_STEPS)
            xs = loop.states()
        events = stops.events
        if events is not None:
            events.require_separate(loop.x0, xs[-1], loop.tau.reshape(-1).to(x.device))
        if differentiable is not None and bool(loop.accepted.any()):
            if events is not None:
                events.records.clear()
            xs = torch.where(torch.isnan(xs), torch.nan, loop.replay(start, *differentiable))
        whole = dense_solution(loop.pieces, times, xs, self._dense_error) if dense else None
        if times.requires_grad:
            calls.active = torch.ones_like(calls.active)
            after = with_output_time_gradients(func, xs[1:], times[..., 1:], calls)
            if events is not None:  # the time of an event does not depend on the last time
                after = torch.where(per_sample(events.ended < torch.inf, x), xs[1:], after)
            xs = torch.cat((x[None], after))
        return replace(loop.solution(xs), t=times, dense=whole), events


def _start_with_graph(
    func: DampedODEFunc, x: Tensor, times: Tensor, calls: CallCounter
) -> tuple[Splitting, Tensor] | None:
    """The splitting and N(x, t) at the start of a solve if anything wants a gradient, else None.

    It is called before a solve without a graph. So values that f computes once and keeps have a graph.
    """
    if not torch.is_grad_enabled():
        return None
    (t,) = columns(times.detach()[..., :1], x)
    t = t.expand(len(x), *[1] * (x.ndim - 1))
    splitting = Splitting(func, t, x, calls)
    n1 = splitting.nonlinear(t, x)
    wanted = n1.requires_grad or splitting.lam.requires_grad or any(p.requires_grad for p in func.parameters())
    return (splitting, n1) if wanted or x.requires_grad else None
