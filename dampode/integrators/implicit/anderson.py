"""Anderson acceleration of a fixed-point iteration, for every sample by itself, with a safeguard."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AndersonSearch"]

_GROWTH = 4.0
"""A trial state may have a residual this many times the least one: a strict descent rejects too many good steps."""

_SHRINK = 0.25
"""The share of the length of a rejected step that the next step may have."""

_STALL = 10
"""Trial states without half the residual after which the other kind of combination is taken."""


class _Pairs(NamedTuple):
    """The last pairs (Δx, Δr) of every sample, in units of |Δr|. The tensors change in place.

    The last of the M + 1 slots stays 0: samples without a new pair write there.
    """

    moves: Tensor
    """Δxᵀ and Δrᵀ, (N, 2, M + 1, d)."""
    products: Tensor
    """⟨Δx_i, Δr_j⟩ and ⟨Δr_i, Δr_j⟩, (N, 2, M + 1, M + 1), float64."""
    kept: Tensor
    """How many pairs each sample has kept so far, (N,)."""

    @classmethod
    def empty(cls, x: Tensor, memory: int) -> "_Pairs":
        size = min(memory, x.shape[1]) + 1
        products = torch.zeros(len(x), 2, size, size, dtype=torch.float64, device=x.device)
        products.diagonal(0, 2, 3).fill_(1.0)
        kept = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return cls(x.new_zeros(len(x), 2, size, x.shape[1]), products, kept)

    def step(self, move: Tensor, change: Tensor, known: Tensor, r: Tensor, galerkin: Tensor) -> Tensor:
        """Keep a new pair instead of the oldest, and combine all pairs to a step.

        Args:
            move: Δx, (N, d).
            change: Δr, (N, d).
            known: the samples that have a new pair, (N, 1).
            r: residual, (N, d).
            galerkin: the samples whose combination makes what is left of r orthogonal to the moves Δx, and not to the
                changes Δr, (N, 1).

        Returns:
            r − (Δx + Δr) γ, where γ makes r − Δr γ small, (N, d).
        """
        moves, products, kept = self
        sample, last = torch.arange(len(r), device=r.device), moves.shape[2] - 1
        pair = torch.stack((move, change), 1) / torch.linalg.vector_norm(change, dim=1)[:, None, None]
        keep = known & torch.isfinite(pair.sum((1, 2)))[:, None]
        slot = torch.where(keep[:, 0], kept % last, last)
        kept += keep[:, 0]
        moves[sample, :, slot] = torch.where(keep[:, :, None], pair, 0.0)
        rows = torch.cat((moves[sample, :, slot], r[:, None]), 1)
        by = torch.bmm(rows, moves.flatten(1, 2).mT).double().unflatten(2, (2, -1))  # (N, 3, 2, M + 1)
        products[sample, 0, slot] = by[:, 0, 1]
        products[sample, 0, :, slot] = by[:, 1, 0]
        products[sample, 1, slot] = by[:, 1, 1]
        products[sample, 1, :, slot] = by[:, 1, 1]
        gram = torch.where(galerkin[:, :, None], products[:, 0], products[:, 1])
        unused = torch.arange(last + 1, device=r.device) >= kept.clamp(max=last)[:, None]
        ridge = 10 * torch.finfo(r.dtype).eps * gram.diagonal(0, 1, 2).abs().amax(1, keepdim=True)
        gram = gram + torch.diag_embed(torch.where(unused, 1.0, ridge))
        gamma = torch.linalg.solve_ex(gram, torch.where(galerkin, by[:, 2, 0], by[:, 2, 1]))[0]
        gamma = torch.where(torch.isfinite(gamma), gamma, 0.0).to(r.dtype)
        return r - torch.bmm(gamma[:, None], moves.sum(1))[:, 0]


class AndersonSearch:
    """The search of every sample for a zero of r, given the values r(x) one trial state after another.

    A trial state becomes the base of the next step if its residual is at most four times the least one so far. If not,
    the next step starts from the old base and is a quarter as long, and knows what the rejected state has shown. Most
    steps are those of Anderson's method, which makes r − Δr γ small. A sample whose residual does not halve in ten
    trial states changes to the Galerkin condition, as in Broyden's method, and back.

    Args:
        x: where to start, (N, d).
        memory: number of pairs that a sample keeps.

    Source: Anderson 1965; Walker & Ni 2011, SIAM J. Numer. Anal. 49 (the form with differences); Fang & Saad 2009,
    Numer. Linear Algebra Appl. 16 (both kinds of combination as quasi-Newton methods).
    """

    def __init__(self, x: Tensor, memory: int) -> None:
        column = x.new_full((len(x), 1), torch.inf)
        self.trial = x
        """Where r is wanted next, (N, d)."""
        self.best, self.best_r = x, torch.full_like(x, torch.nan)
        """The state with the least residual so far, and r there, (N, d)."""
        self.step = torch.zeros_like(x)
        """The step from the base to the trial state, (N, d). At the best state, it estimates the error."""
        self.at_best = torch.ones_like(column, dtype=torch.bool)
        """Whether the base is the best state, (N, 1)."""
        self.stuck = torch.zeros_like(self.at_best)
        """Whether steps have become too short to change the state, (N, 1)."""
        self._base, self._r = x, torch.zeros_like(x)
        self._least, self._halved = column, column
        self._since = torch.zeros_like(column)
        self._radius = column
        self._galerkin = torch.zeros_like(self.at_best)
        self._pairs = _Pairs.empty(x, memory)
        self._started = False

    def record(self, r: Tensor, searching: Tensor) -> None:
        """Take the residual at the trial state, (N, d), and choose the next one for the samples ``searching``, (N, 1).

        Other samples keep their trial state.
        """
        size = torch.linalg.vector_norm(r, dim=1, keepdim=True)
        finite = torch.isfinite(size)
        accepted = finite & searching & (size <= _GROWTH * self._least)
        move, change = self.trial - self._base, r - self._r
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        known = finite & searching & (length > 0) & self._started
        better = accepted & (size < self._least)
        self.best, self.best_r = torch.where(better, self.trial, self.best), torch.where(better, r, self.best_r)
        self._least = torch.where(better, size, self._least)
        self.at_best = torch.where(accepted, better, self.at_best)
        self._base, self._r = torch.where(accepted, self.trial, self._base), torch.where(accepted, r, self._r)
        self._radius = torch.where(accepted, math.inf, torch.where(searching, _SHRINK * length, self._radius))
        self._count_stall()
        step = self._pairs.step(move, change, known, self._r, self._galerkin)
        long = torch.linalg.vector_norm(step, dim=1, keepdim=True)
        step = torch.where(long > self._radius, self._radius / long, 1.0) * step
        eps = torch.finfo(r.dtype).eps
        norm = torch.linalg.vector_norm(self._base, dim=1, keepdim=True)
        self.stuck = ~accepted & searching & (self._radius <= eps * norm) | ~torch.isfinite(self._least)
        self.step = torch.where(searching, step, self.step)
        self.trial = torch.where(searching, self._base + step, self.trial)
        self._started = True

    def stop(self, samples: Tensor) -> None:
        """Let some samples, (N, 1), end at their best state."""
        self.trial = torch.where(samples, self.best, self.trial)

    def _count_stall(self) -> None:
        """Change the kind of combination where the residual has not halved for long."""
        halved = self._least <= 0.5 * self._halved
        self._halved = torch.where(halved | (self._halved == torch.inf), self._least, self._halved)
        self._since = torch.where(halved, 0.0, self._since + 1)
        stalled = self._since >= _STALL
        self._galerkin, self._since = self._galerkin ^ stalled, self._since.masked_fill(stalled, 0.0)
