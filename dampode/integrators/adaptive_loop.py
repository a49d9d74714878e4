"""What the loop of every adaptive solve keeps per sample: time, status, counts of steps, and when to give up."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.dense_output import StatesInside
from dampode.integrators.dense_solution import Piece
from dampode.integrators.event_search import EventSearch
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import GiveUp
from dampode.integrators.stiff_steps import BOUND, are_stiff, warn_of_stiff_steps
from dampode.integrators.stops import Restart, Stops
from dampode.integrators.time_axis import TimeAxis
from dampode.integrators.tolerance import Tolerance

__all__ = ["AdaptiveLoop", "InitialValueProblem", "ProgressBar"]

_STATUSES = tuple(Status)


class InitialValueProblem(NamedTuple):
    """Eq. 4 with its initial state, and how it is to be solved."""

    func: DampedODEFunc
    x: Tensor
    """Initial state, (N, *S)."""
    times: Tensor
    """(T,), or (N, T) without padding, monotonic in one direction, without gradient."""
    tol: Tolerance
    """The tolerance of a step."""
    calls: CallCounter
    """Counts the calls of f."""


class AdaptiveLoop(ABC):
    """One solve with a step size per sample. A subclass holds the state and writes the step.

    Values per sample have the shape of ``tau``. Times are τ = |t − t0| in float64.

    Args:
        problem: what is solved.
        per_sample: shape of values per sample; it broadcasts to the state as the subclass holds it.
        device: of values per sample; None is x's.
    """

    def __init__(
        self,
        problem: InitialValueProblem,
        per_sample: tuple[int, ...],
        device: torch.device | None = None,
    ) -> None:
        func, x, times, self.tol, calls = problem
        self.x0, self.times, self.calls = x, times, calls
        device = x.device if device is None else device
        self.axis = TimeAxis.of(times, per_sample, device)
        self.tau = torch.zeros(per_sample, dtype=torch.float64, device=device)
        start = self.axis.time(self.tau, x.dtype).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        self.splitting = Splitting(func, start, x, calls)
        self.active = self.tau < self.axis.span
        """The samples that have neither reached the last time nor failed."""
        counts = (torch.zeros_like(self.tau, dtype=torch.long) for _ in range(4))
        self.accepted, self.attempted, self.stiff_steps, self._status = counts
        self.give_up = GiveUp(self.tau, self.axis.span)
        self.keep_steps = False
        """Whether to keep what `replay` needs of the accepted steps."""
        self.keep_pieces = False
        """Whether to keep the states inside the accepted steps in ``pieces``."""
        self.pieces: list[Piece] = []
        self.events: EventSearch | None = None

    @property
    def stiff_bound(self) -> float:
        """Stability, not accuracy, bounds a step if h|J| is above this."""
        return BOUND

    @abstractmethod
    def first_step(self) -> Tensor:
        """An estimate of the length of a first step from where the samples are."""

    @abstractmethod
    def restart(self, restart: Restart) -> None:
        """Change the states of some samples, and forget what their steps so far say about the next ones."""

    def stop_at(self, stops: Stops) -> None:
        """Let no step pass the next stop of its sample."""
        self.events = stops.events
        if self.events is not None:
            span = torch.minimum(self.axis.span, self._kept(self.events.ended))
            self.axis = self.axis._replace(span=span)
        self.axis = self.axis.until(self._kept(stops.next()))

    def begin_at(self, stops: Stops) -> None:
        """Let the first part of the solve begin: inside it, where the field at its latest time belongs to the next."""
        self.stop_at(stops)
        if self.axis.sign < 0:
            self.restart(Restart(self._flat(self.active), self._flat(self.tau), self.axis, lambda x: x))

    def hold_before_events(self, inside: StatesInside, after: Tensor, end: Tensor, ok: Tensor) -> Tensor:
        """The samples among the ``ok`` ones whose step has no event in it. The others will step to the event.

        Args:
            inside: the states inside the step.
            after: the states at its end, (N, *S).
            end: τ there.
            ok: the samples that would accept the step.
        """
        if self.events is None:
            return ok
        flat = (self._flat(value) for value in (self.tau, end, ok & self.active))
        held = self._kept(self.events.look(inside, after, *flat))
        stop = torch.minimum(self.axis.stop, self._kept(self.events.stop))
        self.axis = self.axis._replace(stop=stop)
        return ok & ~held

    def pass_stops(self, stops: Stops, h: Tensor, first_step: Callable[[], Tensor]) -> Tensor:
        """Restart the samples that have reached a stop.

        Args:
            stops: the stops of the solve.
            h: the lengths to try next.
            first_step: gives the length of a first step.

        Returns:
            The lengths to try next.
        """
        restart = stops.reached(self._flat(self.tau), self._flat(~self.failed))
        if restart is None:
            return h
        self.stop_at(stops)
        self.active = (self.tau < self.axis.span) & ~self.failed
        self.calls.active = restart.samples
        self.restart(restart._replace(axis=self.axis))
        samples = self._kept(restart.samples) & self.active
        return torch.where(samples, first_step(), h) if bool(samples.any()) else h

    def _flat(self, values: Tensor) -> Tensor:
        """Values per sample as (N,), on the device of the state."""
        return values.reshape(-1).to(self.x0.device)

    def _kept(self, values: Tensor) -> Tensor:
        """Values (N,) in the shape and on the device of values per sample."""
        return values.to(self.tau.device).reshape(self.tau.shape)

    @abstractmethod
    def advance(self, h: Tensor) -> Tensor:
        """Try one step of length ``h`` for every active sample. Returns the lengths to try next."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether any sample is active."""

    @abstractmethod
    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S); NaN after a sample failed."""

    @abstractmethod
    def replay(self, x: Tensor, splitting: Splitting, n1: Tensor) -> Tensor:
        """`states` with gradients, from the accepted steps, which ``keep_steps`` has kept.

        Args:
            x: the initial state, with its graph, (N, *S).
            splitting: the splitting at the initial state, with its graph.
            n1: the nonlinear part there, with its graph, (N, *S).
        """

    def fail(self, samples: Tensor, status: Status) -> None:
        """Give a status to some samples, a mask in the shape of ``tau``."""
        self._status = self._status.masked_fill(samples, _STATUSES.index(status))

    @property
    def failed(self) -> Tensor:
        """The samples that have failed."""
        return self._status != 0

    def refuse(self, largest_lam: Tensor, negative: Tensor, finite: Tensor) -> None:
        """Give a status to the samples that cannot start.

        Args:
            largest_lam: each sample's largest λ.
            negative: the samples with a λ that is negative or NaN.
            finite: the samples whose state and vector field are finite.
        """
        if self.axis.sign < 0 and self.splitting.constant:
            limit = math.log(torch.finfo(self.x0.dtype).max)
            self.fail(largest_lam * self.axis.span > limit, Status.OVERFLOW)
        self.fail(negative, Status.NEGATIVE_DAMPING)
        self.fail(~finite, Status.NOT_FINITE)
        self.active = (self.tau < self.axis.span) & ~self.failed

    def solution(self, xs: Tensor) -> Solution:
        """The states with each sample's counts and status.

        Args:
            xs: the states at the output times, (T, N, *S).
        """
        stiff = are_stiff(self.stiff_steps, self.accepted)
        self.fail(stiff & (self._status == _STATUSES.index(Status.MAX_STEPS)), Status.STIFF)
        accepted, attempted = self._flat(self.accepted), self._flat(self.attempted)
        solution = Solution(
            t=self.times,
            x=xs,
            nfe=self.calls.nfe.clone(),
            accepted=accepted,
            rejected=attempted - accepted,
            status=tuple(_STATUSES[s] for s in self._status.reshape(-1).tolist()),
            reached=self._flat(self.axis.time(self.tau, torch.float64)),
        )
        self._warn_of(stiff & ~self.failed, solution)
        return solution

    def _warn_of(self, stiff: Tensor, solution: Solution) -> bool:
        """Warn if f is stiff in some samples, with the counts of the one that has most such steps. Returns if so."""
        found = bool(stiff.any())
        if found:
            worst = int(torch.where(stiff, self.stiff_steps, 0).argmax())
            few, all_steps = (int(count.reshape(-1)[worst]) for count in (self.stiff_steps, self.accepted))
            warn_of_stiff_steps(few, all_steps, f"of sample {worst}", solution.x.requires_grad, self.stiff_bound)
        return found


class ProgressBar:
    """A tqdm bar of the time that the slowest sample has reached.

    Args:
        span: length of the solve, () or one number per sample.
    """

    def __init__(self, span: Tensor) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm; install it, or dampode[train]") from None
        total = span.max().item()
        self._span, self._total = span, total
        self._bar: Any = tqdm(total=total, unit="t", bar_format="{l_bar}{bar}| {n:.3g}/{total:.3g} [{elapsed}]")

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, tau: Tensor) -> None:
        """Draw the bar at the time of the sample that has most left."""
        self._bar.update(self._total - (self._span - tau).max().item() - self._bar.n)
