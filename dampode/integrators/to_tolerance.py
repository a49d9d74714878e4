"""What integrators to a tolerance share: their settings, failures as errors, gradients with respect to the times."""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dampode._checks import in_train_mode, require_positive, require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.integrators.base import IntegrationError, Integrator, require_call, require_single
from dampode.integrators.end_times import CALLS, with_ends, with_start
from dampode.integrators.solution import Solution
from dampode.integrators.splitting import Splitting


@dataclass(frozen=True)
class TolerantIntegrator(Integrator):
    """An integrator with a step size per sample. A subclass writes ``_steps_taken``.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: attempted steps a sample may take.
        first_step: length of the first step, > 0; None estimates it. One many times too long can pass unnoticed.
        max_step: length of the longest step, > 0; None for no bound.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type; in a solve, a state of half precision,
            dropout in train mode or, for several samples, batch norm in train mode, or a state (N,) whose numbers
            depend on one another: one system of N numbers is (1, N).
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    max_steps: int = 100_000
    first_step: float | None = None
    max_step: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive(self.rtol, "rtol")
        require_positive(self.atol, "atol")
        require_positive_int(self.max_steps, "max_steps")
        if self.first_step is not None:
            require_positive(self.first_step, "first_step")
        if self.max_step is not None:
            require_positive(self.max_step, "max_step")

    @abstractmethod
    def _steps_taken(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """A solve at times without gradient."""

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1, (N, *S)."""
        require_call(func, x, t0, t1)
        if t0 == t1:
            return x
        return self.trajectory(func, x, torch.tensor([t0, t1], dtype=torch.float64))[-1]

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Tensor:
        """The states at all ``times``, or an IntegrationError where a sample fails."""
        solution = self._run(func, x, times)
        failure = solution.failure()
        if failure is not None:
            raise IntegrationError(failure)
        return solution.x

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """The states with statistics and a status per sample."""
        return self._run(func, x, times)

    def _run(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        require_single(x)
        _require_function_of_sample(func, x)
        asked = _require_samples(func, x, times[0]) if x.ndim == 1 and len(x) > 1 else 0
        if not times.requires_grad:
            solution = self._steps_taken(func, x, times)
            return replace(solution, nfe=solution.nfe + asked)
        solution = self._steps_taken(func, with_start(func, x, times[0]), times.detach())
        xs = torch.cat((x[None], with_ends(func, solution.x[1:], times[1:])))
        return replace(solution, t=times, x=xs, nfe=solution.nfe + asked + CALLS * len(times))


def begun(func: DampedODEFunc, x: Tensor, t: Tensor) -> tuple[Splitting, Tensor] | None:
    """The split and N(x, t) at a solve's start, where anything wants a gradient; else None.

    Called before a solve without a graph, so that what f computes once and keeps has its own.
    """
    if not torch.is_grad_enabled():
        return None
    split = Splitting(func, x)
    n1 = split(t.detach().to(x).expand(len(x), *[1] * (x.ndim - 1)), x)
    wanted = n1.requires_grad or split.lam.requires_grad or any(p.requires_grad for p in func.parameters())
    return (split, n1) if wanted or x.requires_grad else None


def _require_function_of_sample(func: DampedODEFunc, x: Tensor) -> None:
    """Raise where f is random, or a sample's value depends on its batch mates, which are at other times."""
    for kind, name in in_train_mode(func):
        if kind == "dropout":
            raise ValueError(
                f"a tolerance needs an f without dropout, got {name} in train mode: no step is short enough for what "
                "is drawn anew at every call; call .eval() on it, or take a fixed step"
            )
        if len(x) > 1:
            raise ValueError(
                "a step size per sample needs an f that acts on each sample by itself, got batch norm "
                f"({name}) in train mode, which would mix samples at different times; use LayerNorm or GroupNorm, "
                ".eval(), a fixed step, or TorchDiffEq, whose samples share their steps"
            )


@torch.no_grad()
def _require_samples(func: DampedODEFunc, x: Tensor, t: Tensor) -> int:
    """Raise where the numbers of a state (N,) are the parts of one system, and not a sample each.

    The first and the last value of f may not change with the other numbers. Returns the calls of f that tell.
    """
    time, moved = t.detach().to(x).expand(len(x)), x + 0.1 * (1 + x.abs())
    before = func(time, x)
    first = func(time, torch.cat((x[:1], moved[1:])))[0] - before[0]
    last = func(time, torch.cat((moved[:-1], x[-1:])))[-1] - before[-1]
    if bool(first.abs() > 1e-3 * before[0].abs()) or bool(last.abs() > 1e-3 * before[-1].abs()):
        raise ValueError(
            f"a step size per sample takes a state ({len(x)},) as {len(x)} samples of one number each, got an f in "
            f"which they depend on one another; one system of {len(x)} numbers is x[None], of shape (1, {len(x)})"
        )
    return 3
