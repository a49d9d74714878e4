"""Fixed points U = a + g N(U) by a quasi-Newton method that learns ∂N/∂x from the calls it makes anyway."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SecantPairs"]


class SecantPairs(NamedTuple):
    """The last pairs (ΔU, ΔN) of every sample. B = ΔN ΔU⁺ agrees with ∂N/∂x on the space that the moves ΔU span.

    B contains neither h nor λ, so it serves all steps of a solve. From step to step the corrections of an implicit
    method point into nearly the same few directions, and B knows these. No Jacobian is formed, and no product with one
    is taken. The tensors change in place. The last of the M slots stays 0: samples without a new pair write there.
    """

    pairs: Tensor
    """ΔUᵀ and ΔNᵀ, (N, 2, M, d); ΔU has length 1."""
    products: Tensor
    """ΔUᵀ ΔU + ridge and ΔUᵀ ΔN, (N, 2, M, M)."""
    kept: Tensor
    """How many pairs each sample has kept so far, (N,)."""
    sample: Tensor
    """0 to N − 1, (N,)."""

    @classmethod
    def empty(cls, x: Tensor, memory: int = 16) -> "SecantPairs":
        """No pairs yet, for states like x, (N, d). At most ``memory`` − 1 pairs will be kept."""
        size = min(memory, x.shape[1] + 1)
        products = x.new_zeros(len(x), 2, size, size)
        products[:, 0].diagonal(0, 1, 2).fill_(_unit_square(x))
        sample = torch.arange(len(x), device=x.device)
        return cls(x.new_zeros(len(x), 2, size, x.shape[1]), products, torch.zeros_like(sample), sample)

    def forget(self, samples: Tensor) -> None:
        """Forget all pairs of some samples, (N, 1)."""
        self.pairs.masked_fill_(samples[:, :, None, None], 0.0)
        self.products.masked_fill_(samples[:, :, None, None], 0.0)
        diagonal = self.products[:, 0].diagonal(0, 1, 2)
        diagonal.copy_(torch.where(samples, _unit_square(self.pairs), diagonal))
        self.kept.masked_fill_(samples[:, 0], 0)

    def correction(self, move: Tensor, change: Tensor, known: Tensor, residual: Tensor, g: Tensor) -> Tensor:
        """Keep a new pair instead of the oldest, and solve for the quasi-Newton correction with all pairs.

        Args:
            move: U' − U, (N, d).
            change: N(U') − N(U), (N, d).
            known: the samples that have a new pair, (N, 1).
            residual: r, (N, d).
            g: the factor of N: one number per sample, (N, 1), or (N, d).

        Returns:
            (I − g B)^{-1} r = r + g ΔN (I − ΔU⁺ g ΔN)^{-1} ΔU⁺ r, (N, d).
        """
        pairs, products, kept, sample = self
        pair = torch.stack((move, change), 1) / torch.linalg.vector_norm(move, dim=1, keepdim=True)[:, None]
        keep = known & torch.isfinite(pair.sum((1, 2)))[:, None]
        last = pairs.shape[2] - 1
        slot = torch.where(keep[:, 0], kept % last, last)
        kept += keep[:, 0]
        pair = torch.where(keep[:, :, None], pair, 0.0)
        pairs[sample, :, slot] = pair
        moves, changes = pairs.unbind(1)
        # rows times matrices: bmm is several times slower with columns
        by_moves = torch.bmm(torch.cat((pair, residual[:, None]), 1), moves.mT)
        by_moves[sample, 0, slot] = _unit_square(residual)
        by_changes = torch.bmm(pair[:, :1], changes.mT)
        products[sample, :, :, slot] = by_moves[:, :2]
        products[sample, :, slot] = torch.cat((by_moves[:, :1], by_changes), 1)
        if g.shape[1] == 1:
            inner = torch.addcmul(products[:, 0], g[:, :, None], products[:, 1], value=-1)
        else:
            inner = products[:, 0] - moves @ (g[:, None] * changes).mT
        y = torch.linalg.solve_ex(inner, by_moves[:, 2])[0].contiguous()  # bmm would loop over columns
        return torch.addcmul(residual, g, torch.bmm(y[:, None], changes)[:, 0])


def _unit_square(x: Tensor) -> float:
    """|ΔU|² = 1, plus the ridge that makes the products invertible."""
    return 1 + 10 * torch.finfo(x.dtype).eps
