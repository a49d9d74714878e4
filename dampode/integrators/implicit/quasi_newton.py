"""Fixed points U = a + g N(U) by a quasi-Newton method that learns ∂N/∂x from the calls it makes anyway."""

from typing import NamedTuple

import torch
from torch import Tensor


class Secants(NamedTuple):
    """The last pairs (ΔU, ΔN) of every sample: B = ΔN ΔU⁺ agrees with ∂N/∂x on what the iterates have moved through.

    h and λ are not in B, so it serves all steps of a solve. The corrections of an implicit method point, from step to
    step, into nearly the same few directions, which B knows: no Jacobian is formed and no product with one is taken.
    The tensors change in place. The last of the M pairs stays 0: there samples write that have none to keep.
    """

    pairs: Tensor
    """ΔUᵀ and ΔNᵀ, (N, 2, M, d); ΔU has length 1."""
    products: Tensor
    """ΔUᵀ ΔU + ridge and ΔUᵀ ΔN, (N, 2, M, M)."""
    kept: Tensor
    """How many pairs were kept, (N,)."""
    sample: Tensor
    """0 to N − 1, (N,)."""

    @classmethod
    def none(cls, x: Tensor, memory: int = 16) -> "Secants":
        """No pairs yet, for states like x, (N, d), of which at most ``memory`` − 1 will be kept."""
        size = min(memory, x.shape[1] + 1)
        products = x.new_zeros(len(x), 2, size, size)
        products[:, 0].diagonal(0, 1, 2).fill_(_one(x))
        sample = torch.arange(len(x), device=x.device)
        return cls(x.new_zeros(len(x), 2, size, x.shape[1]), products, torch.zeros_like(sample), sample)

    def solve(self, move: Tensor, change: Tensor, used: Tensor, residual: Tensor, g: Tensor) -> Tensor:
        """Keep a pair in the place of the oldest, and solve with all of them.

        Args:
            move: U' − U, (N, d).
            change: N(U') − N(U), (N, d).
            used: the samples that have them, (N, 1).
            residual: r, (N, d).
            g: (N, 1), a number a sample, or (N, d).

        Returns:
            (I − g B)^{-1} r = r + g ΔN (I − ΔU⁺ g ΔN)^{-1} ΔU⁺ r, (N, d).
        """
        pairs, products, kept, sample = self
        pair = torch.stack((move, change), 1) / torch.linalg.vector_norm(move, dim=1, keepdim=True)[:, None]
        keep = used & torch.isfinite(pair.sum((1, 2)))[:, None]
        last = pairs.shape[2] - 1
        slot = torch.where(keep[:, 0], kept % last, last)
        kept += keep[:, 0]
        pair = torch.where(keep[:, :, None], pair, 0.0)
        pairs[sample, :, slot] = pair
        moves, changes = pairs.unbind(1)
        # rows times matrices: bmm is several times faster than with columns
        by_moves = torch.bmm(torch.cat((pair, residual[:, None]), 1), moves.mT)
        by_moves[sample, 0, slot] = _one(residual)
        by_changes = torch.bmm(pair[:, :1], changes.mT)
        products[sample, :, :, slot] = by_moves[:, :2]
        products[sample, :, slot] = torch.cat((by_moves[:, :1], by_changes), 1)
        if g.shape[1] == 1:
            inner = torch.addcmul(products[:, 0], g[:, :, None], products[:, 1], value=-1)
        else:
            inner = products[:, 0] - moves @ (g[:, None] * changes).mT
        y = torch.linalg.solve_ex(inner, by_moves[:, 2])[0].contiguous()  # bmm loops over columns
        return torch.addcmul(residual, g, torch.bmm(y[:, None], changes)[:, 0])


def _one(x: Tensor) -> float:
    """|ΔU|² with the ridge that makes the products invertible."""
    return 1 + 10 * torch.finfo(x.dtype).eps
