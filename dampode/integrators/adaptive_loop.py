"""What the loop of every adaptive solve keeps per sample: time, status, counts of steps, and when to give up."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import GiveUp, Tolerance
from dampode.integrators.stiff_steps import are_stiff, warn_of_stiff_steps
from dampode.integrators.time_axis import TimeAxis

__all__ = ["AdaptiveLoop", "ProgressBar"]

_STATUSES = tuple(Status)


class AdaptiveLoop(ABC):
    """One solve with a step size per sample. A subclass holds the state and writes the step.

    Values per sample have the shape of ``tau``. Times are τ = |t − t0| in float64.

    Args:
        func: the damped vector field.
        x: initial state, (N, *S).
        times: strictly monotonic, (T,).
        tol: tolerance of a step.
        calls: counts the calls of f.
        per_sample: shape of values per sample; it broadcasts to the state as the subclass holds it.
    """

    def __init__(
        self,
        func: DampedODEFunc,
        x: Tensor,
        times: Tensor,
        tol: Tolerance,
        calls: CallCounter,
        per_sample: tuple[int, ...],
    ) -> None:
        self.x0, self.times, self.tol, self.calls = x, times, tol, calls
        self.axis = TimeAxis.of(times, x.device)
        self.splitting = Splitting(func, x, calls)
        self.tau = torch.zeros(per_sample, dtype=torch.float64, device=x.device)
        self.active = self.tau >= 0
        """The samples that have neither reached the last time nor failed."""
        counts = (torch.zeros_like(self.tau, dtype=torch.long) for _ in range(4))
        self.accepted, self.attempted, self.stiff_steps, self._status = counts
        self.give_up = GiveUp(self.tau, self.axis.span)
        self.keep_steps = False
        """Whether to keep what `replay` needs of the accepted steps."""

    @abstractmethod
    def first_step(self) -> Tensor:
        """An estimate of the length of the first step."""

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
    def replay(self, splitting: Splitting, n1: Tensor) -> Tensor:
        """`states` with gradients, from the accepted steps, which ``keep_steps`` has kept.

        Args:
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
        if self.axis.sign < 0:
            limit = math.log(torch.finfo(self.x0.dtype).max)
            self.fail(largest_lam * self.axis.span > limit, Status.OVERFLOW)
        self.fail(negative, Status.NEGATIVE_DAMPING)
        self.fail(~finite, Status.NOT_FINITE)
        self.active = ~self.failed

    def solution(self, xs: Tensor) -> Solution:
        """The states with each sample's counts and status.

        Args:
            xs: the states at the output times, (T, N, *S).
        """
        stiff = are_stiff(self.stiff_steps, self.accepted)
        self.fail(stiff & (self._status == _STATUSES.index(Status.MAX_STEPS)), Status.STIFF)
        accepted, attempted, tau = self.accepted.reshape(-1), self.attempted.reshape(-1), self.tau.reshape(-1)
        solution = Solution(
            t=self.times,
            x=xs,
            nfe=self.calls.nfe.clone(),
            accepted=accepted,
            rejected=attempted - accepted,
            status=tuple(_STATUSES[s] for s in self._status.reshape(-1).tolist()),
            reached=self.axis.time(tau, torch.float64),
        )
        self._warn_of(stiff & ~self.failed, solution)
        return solution

    def _warn_of(self, stiff: Tensor, solution: Solution) -> bool:
        """Warn if f is stiff in some samples, with the counts of the one that has most such steps. Returns if so."""
        found = bool(stiff.any())
        if found:
            worst = int(torch.where(stiff, self.stiff_steps, 0).argmax())
            few, all_steps = (int(count.reshape(-1)[worst]) for count in (self.stiff_steps, self.accepted))
            warn_of_stiff_steps(few, all_steps, f"of sample {worst}", solution.x.requires_grad)
        return found


class ProgressBar:
    """A tqdm bar of the time that the slowest sample has reached.

    Args:
        span: length of the solve, ().
    """

    def __init__(self, span: Tensor) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm; install it, or dampode[train]") from None
        self._bar: Any = tqdm(total=span.item(), unit="t", bar_format="{l_bar}{bar}| {n:.3g}/{total:.3g} [{elapsed}]")

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def show(self, tau: Tensor) -> None:
        """Draw the bar at the slowest sample's time."""
        self._bar.update(tau.min().item() - self._bar.n)
