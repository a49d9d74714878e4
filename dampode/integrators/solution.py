"""The result of a solve: the trajectory, its statistics, and a status per sample."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from dampode.integrators.dense_solution import DenseSolution

__all__ = ["Solution", "Status", "failed_samples", "failure_message", "solution_of_batch"]


class Status(Enum):
    """How the solve of a sample ended. Each value is the message for the user: what happened and what to do."""

    SUCCESS = "the last time was reached"
    MAX_STEPS = "max_steps were spent before the last time: raise max_steps, or loosen rtol and atol"
    STIFF = (
        "max_steps were spent before the last time, because f is stiff: stability and not accuracy keeps the steps of "
        "an explicit method short; use KenCarp4"
    )
    NOT_FINITE = (
        "the state or f is NaN or infinite however short the step: check the initial state, and f after this time"
    )
    STEP_UNDERFLOW = (
        "the step became too short to advance t: f is not smooth there, or the tolerance is below the dtype's "
        "rounding error; loosen rtol and atol, or use float64"
    )
    INNER_SOLVE_FAILED = (
        "the equations of an implicit step did not converge however short the step: check that f is smooth at this "
        "time, loosen rtol and atol, or use float64"
    )
    MAX_CALLS = (
        "max_calls were spent before −λx + ρ f was 0 to the tolerance: the field may have no equilibrium near the "
        "start; raise max_calls, start elsewhere, add damping, or loosen rtol and atol"
    )
    STALLED = (
        "no step, however short, brings −λx + ρ f nearer to 0: the field may have no equilibrium near the start, or f "
        "is not continuous there; start elsewhere, add damping, or loosen rtol and atol"
    )
    NEGATIVE_DAMPING = "λ is negative or NaN: give the damping an activation with values >= 0"
    OVERFLOW = (
        "e^{λ|t1 − t0|} overflows the state's dtype: backwards in time damping amplifies; shorten the time span, lower "
        "λ, or use float64"
    )


def failed_samples(statuses: tuple[Status, ...]) -> list[int]:
    """The numbers of the samples that did not succeed."""
    return [n for n, status in enumerate(statuses) if status is not Status.SUCCESS]


def failure_message(statuses: tuple[Status, ...], reached: Tensor) -> str | None:
    """A message with the first failed sample, its time and the remedy; None if all samples succeeded.

    Args:
        statuses: of the samples.
        reached: the time that each sample has reached, (N,).
    """
    failed = failed_samples(statuses)
    if not failed:
        return None
    n = failed[0]
    return (
        f"{len(failed)} of {len(statuses)} samples failed, the first at index {n}, at t = {reached[n].item():g}: "
        f'{statuses[n].value}; see "My solve fails" in the documentation'
    )


@dataclass(frozen=True)
class Solution:
    """A trajectory and its cost.

    If the status of a sample is not SUCCESS, its states after ``reached`` are NaN.
    """

    t: Tensor
    """The output times, (T,) or (N, T)."""
    x: Tensor
    """The states there, (T, N, *S), the initial state first."""
    nfe: Tensor
    """Calls of f that each sample needed, (N,) int64. f always sees the whole batch."""
    accepted: Tensor
    """Accepted steps, (N,) int64; -1 if the integrator's library does not report them."""
    rejected: Tensor
    """Rejected steps, (N,) int64; -1 if the integrator's library does not report them."""
    status: tuple[Status, ...]
    """How the solve of each sample ended, N statuses."""
    reached: Tensor
    """The time each sample reached, (N,) float64."""
    dense: DenseSolution | None = None
    """The solution as a function of time, from ``solve(..., dense=True)``."""
    unflatten: Callable[[Tensor], Any] | None = None
    """Puts a flat state back into its structure. Then ``x``, `at` and `error_at` give the structure of such tensors."""

    def at(self, t: float | Tensor) -> Any:
        """The states at any time of the solve, without calls of f.

        It is continuous, except at jumps, where it is the state after the jump. Its uniform order is 3 for
        `AdaptiveExponential` and `KenCarp4`, that of the step for `ExponentialAdams`, and for a fixed step that of the
        method, but at most 4 at fixed λ. It is differentiable in t and in all that the states are differentiable in.

        Args:
            t: a number, (M,) for all samples or (N, M) for each sample, inside the solve, in any order. NaN at a row's
                end pads it.

        Returns:
            The states, (M, N, *S), or (N, *S) for a number. They are NaN after the time that a failed sample reached.

        Raises:
            ValueError: t lies outside the solve, or the solution was made without ``dense=True``.
        """
        return self._structured(self._as_function().at(t))

    def error_at(self, t: float | Tensor) -> Any:
        """An estimate of the error that interpolation adds to `at`: its last term.

        `AdaptiveExponential` and `ExponentialAdams` have it. Without this term the dense output has one order less. So
        the estimate is on the safe side.

        Args:
            t: as in `at`.

        Returns:
            The absolute errors, in the shape of `at`.

        Raises:
            ValueError: as in `at`; or the integrator has no such estimate.
        """
        return self._structured(self._as_function().error_at(t))

    def _structured(self, states: Tensor) -> Any:
        """The states in the structure of the initial state."""
        return states if self.unflatten is None else self.unflatten(states)

    def _as_function(self) -> DenseSolution:
        """The solution as a function of time, or a ValueError."""
        if self.dense is None:
            raise ValueError("the solution between its times is kept only on request: call solve(..., dense=True)")
        return self.dense

    def failure(self) -> str | None:
        """A message with the first failed sample, its time and the remedy; None if all samples succeeded."""
        return failure_message(self.status, self.reached)


def solution_of_batch(times: Tensor, xs: Tensor, calls: int, steps: int) -> Solution:
    """The Solution of an integrator that steps the whole batch at once.

    Args:
        times: the output times, (T,), or (N, T) without padding.
        xs: the states there, (T, N, *S).
        calls: number of calls of f.
        steps: number of steps; -1 if it is unknown.

    Returns:
        The solution, with the same counts for every sample. The status of a sample is NOT_FINITE if a state of it is
        not finite.
    """
    finite = torch.isfinite(xs.detach()).reshape(*xs.shape[:2], -1).all(2)  # (T, N)
    sound = finite.long().cumprod(0)  # before the first state that is not finite
    sound[0] = 1  # the initial state is as it was given
    last = sound.sum(0) - 1
    like = torch.ones(xs.shape[1], dtype=torch.int64, device=xs.device)
    if not bool(finite.all()):
        xs = torch.where(sound.bool().view(*xs.shape[:2], *[1] * (xs.ndim - 2)), xs, torch.nan)
    return Solution(
        t=times,
        x=xs,
        nfe=calls * like,
        accepted=steps * like,
        rejected=min(steps, 0) * like,
        status=tuple(Status.SUCCESS if ok else Status.NOT_FINITE for ok in finite.all(0).tolist()),
        reached=_at(times.detach().to(device=xs.device, dtype=torch.float64), last),
    )


def _at(times: Tensor, last: Tensor) -> Tensor:
    """The time with the number ``last`` of every sample, (N,)."""
    return times[last] if times.ndim == 1 else times.gather(1, last[:, None])[:, 0]
