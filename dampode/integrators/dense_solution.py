"""A solution as a function of time, from the interpolants of all its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dampode._checks import require_instance, require_real
from dampode.integrators.dense_output import StatesInside, selected
from dampode.integrators.sample_times import require_rows, without_padding

__all__ = ["DenseSolution", "Piece", "dense_solution", "require_no_dense"]

Piece = tuple[StatesInside, Tensor]
"""A step, and τ after it, (N,) float64; for samples that did not take it, τ before it."""


def require_no_dense(dense: bool, name: str, remedy: str) -> None:
    """Raise if a solution as a function of time is wanted."""
    if dense:
        raise ValueError(f"{name} gives no solution as a function of time, got dense=True; {remedy}")


@dataclass(frozen=True)
class DenseSolution:
    """The states between the first and the last time of a solve."""

    steps: Sequence[StatesInside]
    """The B steps."""
    ends: Tensor
    """τ after each step, (N, B) float64."""
    times: Tensor
    """The times of the solve, (T,) or (N, T) without padding."""
    first: Tensor
    """The states at the first time, (N, *S)."""
    last: Tensor
    """The states at the last time, (N, *S); NaN for samples that failed."""
    has_error: bool
    """Whether the last term of the interpolants estimates their error."""

    def at(self, t: float | Tensor) -> Tensor:
        """The states at t, as `Solution.at` gives them."""
        tau, shape, ended = self._tau(t)
        states = self.first[:, None].expand(-1, tau.shape[1], *self.first.shape[1:])
        if self.steps:
            step, theta = self._located(tau)
            states = step.state(theta).reshape(states.shape)
        last = self.last[:, None].expand_as(states)
        states = torch.where(_as(ended, states), last, states)
        reached = self.ends[:, -1:] if self.steps else torch.zeros_like(tau[:, :1])
        states = torch.where(_as((tau.detach() > reached) & ~ended, states), torch.nan, states)
        return states.movedim(1, 0).reshape(*shape, *self.first.shape)

    def error_at(self, t: float | Tensor) -> Tensor:
        """An estimate of the error of `at`, as `Solution.error_at` gives it."""
        if not self.has_error:
            raise ValueError(
                "this dense output has no embedded error; take ExponentialAdams without damping.Matrix, or compare two "
                "solves"
            )
        tau, shape, _ = self._tau(t)
        if not self.steps:
            return torch.zeros_like(self.first).expand(*shape, *self.first.shape)
        step, theta = self._located(tau)
        error = step.last_term(theta).reshape(*tau.shape, *self.first.shape[1:])
        return error.movedim(1, 0).reshape(*shape, *self.first.shape)

    def _located(self, tau: Tensor) -> tuple[StatesInside, Tensor]:
        """The steps in which the times τ (N, M) lie, and θ inside them, N · M values each."""
        n, m = tau.shape
        begins = torch.cat((torch.zeros_like(self.ends[:, :1]), self.ends[:, :-1]), 1)
        # a time at the end of a step belongs to the next one, if there is one
        found = tau.detach().contiguous()
        number = torch.searchsorted(self.ends, found, right=True)
        number = torch.where(number < len(self.steps), number, torch.searchsorted(self.ends, found))
        number = number.clamp(max=len(self.steps) - 1)
        begin, end = begins.gather(1, number), self.ends.gather(1, number)
        theta = (tau - begin) / torch.where(end > begin, end - begin, 1.0)
        sample = torch.arange(n, device=tau.device)[:, None].expand(n, m)
        theta = theta.reshape(-1, *[1] * (self.first.ndim - 1)).to(self.first.dtype)
        return selected(self.steps, number.reshape(-1), sample.reshape(-1)), theta

    def _tau(self, t: float | Tensor) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """τ of given times, (N, M), with gradient; the shape (M,) or () of the result; and where τ is the last one."""
        require_instance(t, (float, int, Tensor), "t")
        n, device = len(self.first), self.first.device
        if not isinstance(t, Tensor):
            require_real(t, "t")
            t = torch.tensor(t, dtype=torch.float64, device=device)
        if t.ndim > 2 or (t.ndim == 2 and len(t) != n) or t.numel() == 0 or not t.is_floating_point():
            raise ValueError(
                f"t must be a number, (M,) or (N, M) with N = {n} samples, floating, got {t.dtype} of shape "
                f"{tuple(t.shape)}"
            )
        shape = t.shape[-1:]
        rows = t.to(device=device, dtype=torch.float64).reshape(-1, shape[0] if shape else 1)
        require_rows(rows.detach(), "t")
        rows = without_padding(rows)
        solved = self.times.detach().to(rows).reshape(-1, self.times.shape[-1])
        t0, t1 = solved[:, :1], solved[:, -1:]
        sign = torch.where((t1 - t0).sum() < 0, -1.0, 1.0).to(rows)
        tau, span = (sign * (rows - t0)).expand(n, -1), (t1 - t0).abs()
        outside = (tau.detach() < 0) | (tau.detach() > span)
        if bool(outside.any()):
            k, m = torch.nonzero(outside)[0].tolist()
            row = min(k, len(t0) - 1)
            raise ValueError(
                f"t must lie inside the solve, got {rows[min(k, len(rows) - 1), m].item():g} for sample {k}, which was "
                f"solved from {t0[row].item():g} to {t1[row].item():g}"
            )
        return tau, tuple(shape), tau.detach() >= span


def dense_solution(pieces: list[Piece], times: Tensor, xs: Tensor, has_error: bool) -> DenseSolution:
    """The solution as a function of time.

    Args:
        pieces: the steps.
        times: the times of the solve, (T,) or (N, T) without padding.
        xs: the states there, (T, N, *S).
        has_error: whether the last term of the interpolants estimates their error.
    """
    ends = [end for _, end in pieces]
    none = torch.zeros(xs.shape[1], 0, dtype=torch.float64, device=xs.device)
    return DenseSolution(
        [step for step, _ in pieces], torch.stack(ends, 1) if ends else none, times, xs[0], xs[-1], has_error
    )


def _as(mask: Tensor, states: Tensor) -> Tensor:
    """A mask (N, M) that broadcasts to states (N, M, *S)."""
    return mask.reshape(*mask.shape, *[1] * (states.ndim - 2))
