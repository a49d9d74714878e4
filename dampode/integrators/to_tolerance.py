"""What integrators to a tolerance share: settings, the checks and the course of a solve, and time gradients."""

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dampode._checks import in_train_mode, require_instance, require_positive, require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.integrators.adaptive_loop import AdaptiveLoop, ProgressBar
from dampode.integrators.base import IntegrationError, Integrator, require_call, require_single
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.solution import Solution, Status
from dampode.integrators.splitting import Splitting
from dampode.integrators.time_gradients import with_output_time_gradients, with_start_time_gradient

__all__ = ["TolerantIntegrator"]


@dataclass(frozen=True)
class TolerantIntegrator(Integrator):
    """An integrator with a tolerance and a step size per sample. A subclass supplies the loop of the solve.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: largest number of steps that a sample may try, accepted and rejected together.
        first_step: length of the first step, > 0; None estimates it. A first step that is many times too long can pass
            unnoticed.
        max_step: length of the longest step, > 0; None sets no bound.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile the arithmetic of a step by torch.compile.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type. In a solve: a state of half precision;
            dropout in train mode; for several samples, batch norm in train mode; a state (N,) whose numbers depend on
            one another (one system of N numbers is (1, N)).
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    max_steps: int = 100_000
    first_step: float | None = None
    max_step: float | None = None
    progress: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive(self.rtol, "rtol")
        require_positive(self.atol, "atol")
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

    @abstractmethod
    def _loop(self, func: DampedODEFunc, x: Tensor, times: Tensor, calls: CallCounter) -> AdaptiveLoop:
        """The loop of a solve, at its start, for times without gradient."""

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, (N, *S)."""
        require_call(func, x, t0, t1)
        if t0 == t1:
            return x
        return self.trajectory(func, x, torch.tensor([t0, t1], dtype=torch.float64))[-1]

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times``, or an IntegrationError if a sample fails."""
        solution = self._solution(func, x, times)
        failure = solution.failure()
        if failure is not None:
            raise IntegrationError(failure)
        return solution.x

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """The states with statistics and a status per sample."""
        return self._solution(func, x, times)

    def _solution(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """The whole course of a solve. The `while` loop is here, and not in a method of the loop, to save a frame."""
        require_single(x)
        _require_function_of_sample(func, x)
        calls = CallCounter(x)
        _require_samples(func, x, times[0], calls)
        start = with_start_time_gradient(func, x, times[0], calls) if times.requires_grad else x
        differentiable = _start_with_graph(func, start, times[0], calls) if self._replays else None
        with torch.no_grad() if self._replays else nullcontext():
            loop = self._loop(func, start, times.detach(), calls)
            loop.keep_steps = differentiable is not None
            h = loop.first_step() if self.first_step is None else torch.full_like(loop.tau, self.first_step)
            h, tries = torch.where(loop.active, h, 0.0), 0
            with ProgressBar(loop.axis.span) if self.progress else nullcontext() as bar:
                while loop.running and tries < self.max_steps:
                    h = loop.advance(h if self.max_step is None else h.clamp(max=self.max_step))
                    tries += 1
                    if bar is not None:
                        bar.show(loop.tau)
            loop.fail(loop.active, Status.MAX_STEPS)
            xs = loop.states()
        if differentiable is not None and bool(loop.accepted.any()):
            xs = torch.where(torch.isnan(xs), torch.nan, loop.replay(*differentiable))
        if times.requires_grad:
            calls.active = torch.ones_like(calls.active)
            xs = torch.cat((x[None], with_output_time_gradients(func, xs[1:], times[1:], calls)))
        return replace(loop.solution(xs), t=times)


def _start_with_graph(func: DampedODEFunc, x: Tensor, t: Tensor, calls: CallCounter) -> tuple[Splitting, Tensor] | None:
    """The splitting and N(x, t) at the start of a solve if anything wants a gradient, else None.

    It is called before a solve without a graph. So values that f computes once and keeps have a graph.
    """
    if not torch.is_grad_enabled():
        return None
    splitting = Splitting(func, x, calls)
    n1 = splitting.nonlinear(t.detach().to(x).expand(len(x), *[1] * (x.ndim - 1)), x)
    wanted = n1.requires_grad or splitting.lam.requires_grad or any(p.requires_grad for p in func.parameters())
    return (splitting, n1) if wanted or x.requires_grad else None


def _require_function_of_sample(func: DampedODEFunc, x: Tensor) -> None:
    """Raise if f is random, or if f of a sample depends on the other samples, which are at other times."""
    for kind, name in in_train_mode(func):
        if kind == "dropout":
            raise ValueError(
                f"a tolerance needs an f without dropout, got {name} in train mode: dropout draws new values at every "
                "call, so no step is short enough; call .eval() on it, or take a fixed step"
            )
        if len(x) > 1:
            raise ValueError(
                "a step size per sample needs an f that acts on each sample by itself, got batch norm "
                f"({name}) in train mode, which would mix samples at different times; use LayerNorm or GroupNorm, "
                ".eval(), a fixed step, or TorchDiffEq, whose samples share their steps"
            )


@torch.no_grad()
def _require_samples(func: DampedODEFunc, x: Tensor, t: Tensor, calls: CallCounter) -> None:
    """Raise if the numbers of a state (N,) are the parts of one system instead of N samples.

    The first and the last value of dx/dt must not change with the other numbers. This takes three calls of f.
    """
    if x.ndim > 1 or len(x) == 1:
        return
    time, moved = t.detach().to(x).expand(len(x)), x + 0.1 * (1 + x.abs())
    splitting = Splitting(func, x, calls)

    def rate(x: Tensor) -> Tensor:
        return splitting.nonlinear(time, x) - splitting.lam * x

    before = rate(x)
    first = rate(torch.cat((x[:1], moved[1:])))[0] - before[0]
    last = rate(torch.cat((moved[:-1], x[-1:])))[-1] - before[-1]
    if bool(first.abs() > 1e-3 * before[0].abs()) or bool(last.abs() > 1e-3 * before[-1].abs()):
        raise ValueError(
            f"a step size per sample takes a state ({len(x)},) as {len(x)} samples of one number each, got an f in "
            f"which they depend on one another; one system of {len(x)} numbers is x[None], of shape (1, {len(x)})"
        )
