"""Equilibria of a batch: the search for −λx + ρ f(x) = 0, with a stop, a measured residual and a status per sample."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.implicit.anderson import AndersonSearch
from dampode.integrators.implicit.equilibrium_gradient import GradientReport
from dampode.integrators.solution import Status, failed_samples
from dampode.integrators.tolerance import Tolerance

__all__ = ["Equilibria", "Found", "search"]

_ERROR_SHARE = 10.0
"""In units of the tolerance: the largest estimate of the error of an equilibrium. It tells a small residual from a
small error, as where −λx + ρ f tends to 0 at infinity."""

_REPEATED = 1.5
"""How many times its tolerance a residual may be when f is called again at the same state. More is no rounding."""


class Equilibria(NamedTuple):
    """The result of a search for the equilibria of a batch."""

    x: Tensor
    """The equilibria, (N, *S); for a sample that failed, the state with the smallest residual found."""
    residual: Tensor
    """The root mean square of −λx + ρ f at x, (N,), as the last call of f measured it."""
    nfe: Tensor
    """Calls of f that each sample needed, (N,) int64. f always sees the whole batch."""
    status: tuple[Status, ...]
    """How the search of each sample ended."""
    gradient: GradientReport
    """How exact the gradient is, once a backward pass has met it."""

    @property
    def converged(self) -> bool:
        """Whether every sample is at an equilibrium."""
        return all(status is Status.SUCCESS for status in self.status)

    def failure(self) -> str | None:
        """A message with the first failed sample and the remedy; None if all samples succeeded."""
        failed = failed_samples(self.status)
        if not failed:
            return None
        n = failed[0]
        return (
            f"{len(failed)} of {len(self.status)} samples found no equilibrium, the first at index {n}, with a "
            f"residual of {self.residual[n].item():.1e} after {int(self.nfe[n])} calls of f: {self.status[n].value}"
        )


class Found(NamedTuple):
    """What a search found, flat."""

    x: Tensor
    """(N, d)."""
    residual: Tensor
    """(−λx + ρ f) / s at x, (N, d)."""
    nfe: Tensor
    """(N,)."""
    status: tuple[Status, ...]


def search(
    r: Callable[[Tensor], Tensor], x: Tensor, kept: Tensor, tol: Tolerance, memory: int, max_calls: int
) -> Found:
    """Search for a zero of r from x, in every sample by itself.

    A sample stops where |r| is at most rtol |λ x / s| + √d atol, and where the next step, which estimates the error, is
    at most ten times rtol |x| + √d atol. It then waits at its equilibrium for the other samples, where every further
    call of f measures its residual again.

    Args:
        r: (−λx + ρ f) / s on (N, d).
        x: where to start, (N, d).
        kept: λ / s, (N, d): what λ x is in r.
        tol: tolerance.
        memory: number of pairs for Anderson's method.
        max_calls: calls of f per sample at most.

    Raises:
        ValueError: the residual of a sample changed while other samples moved, or by chance.
    """
    steps = AndersonSearch(x, memory)
    rtol, floor = max(tol.rtol, 10 * torch.finfo(x.dtype).eps), x.shape[1] ** 0.5 * tol.atol
    searching = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
    done, stuck = torch.zeros_like(searching), torch.zeros_like(searching)
    nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    now = torch.empty_like(x)
    for _ in range(max_calls):
        now = r(steps.trial)
        nfe += searching[:, 0]
        _require_repeated(now, steps, rtol * _norm(kept * steps.trial) + floor, done)
        steps.record(now, searching)
        allowed = rtol * _norm(kept * steps.best) + floor
        near = _norm(steps.step) <= _ERROR_SHARE * (rtol * _norm(steps.best) + floor)
        reached = searching & steps.at_best & (_norm(steps.best_r) <= allowed) & near
        stuck, done = stuck | (searching & ~reached & steps.stuck), done | reached
        steps.stop(reached | stuck)
        searching = searching & ~reached & ~stuck
        if not bool(searching.any()):
            break
    measured = torch.where(done & torch.isfinite(now), now, steps.best_r)
    return Found(steps.best, measured, nfe, _statuses(done, stuck, torch.isfinite(steps.best_r).all(1)))


def _statuses(done: Tensor, stuck: Tensor, finite: Tensor) -> tuple[Status, ...]:
    """The status of every sample; r was not even finite at the start of those that are not ``finite``."""

    def status(done: bool, stuck: bool, finite: bool) -> Status:
        if not finite:
            return Status.NOT_FINITE
        return Status.SUCCESS if done else Status.STALLED if stuck else Status.MAX_CALLS

    return tuple(map(status, done[:, 0].tolist(), stuck[:, 0].tolist(), finite.tolist()))


def _require_repeated(now: Tensor, steps: AndersonSearch, allowed: Tensor, done: Tensor) -> None:
    """Raise unless the residual of the samples that are done, (N, 1), stays what it was."""
    rounding = 100 * torch.finfo(now.dtype).eps * _norm(steps.trial)
    changed = done & ~(_norm(now) <= _REPEATED * allowed + rounding)
    if bool(changed.any()):
        n = int(changed.nonzero()[0, 0])
        raise ValueError(
            "an equilibrium per sample needs an f that acts on each sample by itself and without chance, got an f "
            f"whose residual at the equilibrium of sample {n} changed from {_norm(steps.best_r)[n].item():.1e} to "
            f"{_norm(now)[n].item():.1e} while other samples moved; call .eval() on it, take LayerNorm or GroupNorm in "
            f"place of batch norm, or give one system as x[None], of shape {(1, *now.shape)}"
        )


def _norm(x: Tensor) -> Tensor:
    """|x| of each sample, (N, 1)."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm
