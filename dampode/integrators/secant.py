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
        self._pairs = x.new_zeros(len(x), 2, size, x.shape[1])  # ΔUᵀ and ΔNᵀ
        self._gram, self._cross = (x.new_zeros(len(x), size, size) for _ in range(2))  # ΔUᵀ ΔU and ΔUᵀ ΔN
        self._ones = self._gram.diagonal(0, 1, 2)  # moves have length 1
        self._ridge = 10 * torch.finfo(x.dtype).eps
        self._ones.fill_(1 + self._ridge)
        self._sample = torch.arange(len(x), device=x.device)
        self._added = torch.zeros_like(self._sample)

    def add(self, move: Tensor, change: Tensor, used: Tensor) -> None:
        """Keep N(U + move) − N(U) = change of the samples where ``used``, (N, 1), in the place of the oldest pair."""
        pair = torch.stack((move, change), 1) / torch.linalg.vector_norm(move, dim=1, keepdim=True)[:, None]
        keep = used & torch.isfinite(pair).flatten(1).all(1, keepdim=True)
        sample, slot = self._sample, self._added % self._pairs.shape[2]
        pair = torch.where(keep[:, :, None], pair, self._pairs[sample, :, slot])
        self._pairs[sample, :, slot] = pair
        inner = torch.bmm(pair, self._pairs.flatten(1, 2).mT)  # of the pair with all pairs, (N, 2, 2 memory)
        (gram, cross), (cross_column, _) = (part.tensor_split(2, 1) for part in inner.unbind(1))
        self._gram[sample, slot], self._gram[sample, :, slot] = gram, gram
        self._ones.fill_(1 + self._ridge)
        self._cross[sample, slot], self._cross[sample, :, slot] = cross, cross_column
        self._added = self._added + keep[:, 0]

    def solve(self, residual: Tensor, g: Tensor) -> Tensor:
        """(I − g B)^{-1} residual: r + g ΔN (I − ΔU⁺ g ΔN)^{-1} ΔU⁺ r; g is (N, 1), a number a sample, or (N, d)."""
        moves, changes = self._pairs.unbind(1)
        if g.shape[1] == 1:
            inner = torch.addcmul(self._gram, g[:, :, None], self._cross, value=-1)
        else:
            inner = self._gram - moves @ (g[:, None] * changes).mT
        # a row times a matrix: bmm is several times faster than with a column
        y = torch.linalg.solve_ex(inner, torch.bmm(residual[:, None], moves.mT)[:, 0])[0]
        return torch.addcmul(residual, g, torch.bmm(y[:, None], changes)[:, 0])
