"""Fixed points U = a + g N(U) by a quasi-Newton method that learns ∂N/∂x from the calls it makes anyway."""

import torch
from torch import Tensor


class Secants:
    """The last pairs (ΔU, ΔN) of every sample: B = ΔN ΔU⁺ agrees with ∂N/∂x on what the iterates have moved through.

    h and λ are not in B, so it serves all steps of a solve. The corrections of an implicit method point, from step to
    step, into nearly the same few directions, which B knows: no Jacobian is formed and no product with one is taken.

    Args:
        x: a state, (N, d), for sizes.
        memory: pairs kept.
    """

    def __init__(self, x: Tensor, memory: int = 16) -> None:
        size = min(memory, x.shape[1])
        self._moves, self._changes = (x.new_zeros(len(x), size, x.shape[1]) for _ in range(2))  # ΔUᵀ and ΔNᵀ
        self._gram, self._cross = (x.new_zeros(len(x), size, size) for _ in range(2))  # ΔUᵀ ΔU and ΔUᵀ ΔN
        self._diagonal = self._gram.diagonal(0, 1, 2).fill_(1 + 10 * torch.finfo(x.dtype).eps)  # moves have length 1
        self._sample = torch.arange(len(x), device=x.device)
        self._added = torch.zeros_like(self._sample)

    def add(self, move: Tensor, change: Tensor, used: Tensor) -> None:
        """Keep N(U + move) − N(U) = change of the samples where ``used``, (N, 1), in the place of the oldest pair."""
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        keep = used & (length > 0) & torch.isfinite(change).all(1, keepdim=True)
        place = self._sample, self._added % self._moves.shape[1]
        move = torch.where(keep, move / length, self._moves[place])
        change = torch.where(keep, change / length, self._changes[place])
        self._moves[place], self._changes[place] = move, change
        inner = _dots(move, self._moves)
        self._gram[place], self._gram.mT[place] = inner, inner
        self._diagonal.fill_(1 + 10 * torch.finfo(move.dtype).eps)
        self._cross[place], self._cross.mT[place] = _dots(move, self._changes), _dots(change, self._moves)
        self._added = self._added + keep[:, 0]

    def solve(self, residual: Tensor, g: Tensor) -> Tensor:
        """(I − g B)^{-1} residual: r + g ΔN (I − ΔU⁺ g ΔN)^{-1} ΔU⁺ r; g is (N, 1), a number a sample, or (N, d)."""
        if g.shape[1] == 1:
            inner = torch.addcmul(self._gram, g[:, :, None], self._cross, value=-1)
        else:
            inner = self._gram - self._moves @ (g[:, None] * self._changes).mT
        y = torch.linalg.solve_ex(inner, _dots(residual, self._moves))[0]
        return torch.addcmul(residual, g, torch.bmm(y[:, None], self._changes)[:, 0])


def _dots(vector: Tensor, rows: Tensor) -> Tensor:
    """The products of (N, d) with the rows of (N, M, d), (N, M): a row times a matrix, several times faster in bmm."""
    return torch.bmm(vector[:, None], rows.mT)[:, 0]
