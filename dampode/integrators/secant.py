"""Fixed points U = a + g N(U) by a quasi-Newton method that learns ∂N/∂x from the calls it makes anyway."""

import torch
from torch import Tensor


class Secants:
    """The last pairs (ΔU, ΔN) of every sample: B = ΔN ΔU⁺ agrees with ∂N/∂x on what the iterates have moved through.

    h and λ are not in B, so it serves all steps of a solve. The corrections of an implicit method point, from step to
    step, into nearly the same few directions, which B knows: no Jacobian is formed and no product with one is taken.

    Args:
        x: a state, (N, *S), for sizes.
        memory: pairs kept.
    """

    def __init__(self, x: Tensor, memory: int = 32) -> None:
        size = min(memory, x[0].numel())
        self._moves, self._changes = (x.new_zeros(len(x), x[0].numel(), size) for _ in range(2))
        self._next = torch.zeros(len(x), 1, 1, dtype=torch.long, device=x.device)
        self._ridge = 10 * torch.finfo(x.dtype).eps

    def add(self, move: Tensor, change: Tensor, used: Tensor) -> None:
        """Keep N(U + move) − N(U) = change of the samples where ``used``, (N, 1, ..., 1), is true."""
        move, change = move.flatten(1), change.flatten(1)
        length = torch.linalg.vector_norm(move, dim=1, keepdim=True)
        keep = used.reshape(-1, 1) & (length > 0) & torch.isfinite(change).all(1, keepdim=True)
        length = torch.where(keep, length, 1.0)
        slot = (self._next % self._moves.shape[2]).expand(-1, move.shape[1], 1)
        for kept, new in ((self._moves, move), (self._changes, change)):
            kept.scatter_(2, slot, torch.where(keep[:, :, None], (new / length)[:, :, None], kept.gather(2, slot)))
        self._next = self._next + keep[:, :, None]

    def solve(self, residual: Tensor, g: Tensor) -> Tensor:
        """(I − g B)^{-1} residual: r + g ΔN (I − ΔU⁺ g ΔN)^{-1} ΔU⁺ r."""
        r = residual.flatten(1)[:, :, None]
        gn = g.expand_as(residual).flatten(1)[:, :, None] * self._changes
        identity = torch.eye(gn.shape[2], dtype=r.dtype, device=r.device)
        moved = self._moves.mT
        gram = moved @ self._moves + self._ridge * identity
        y = torch.linalg.solve_ex(gram - moved @ gn, moved @ r)[0]
        correction: Tensor = gn @ y
        return residual + correction.reshape(residual.shape)
