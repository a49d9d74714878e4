"""GMRES for many systems side by side, with a Krylov space that may serve several right-hand sides and matrices."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["KrylovSpace", "gmres", "gmres_and_remainder", "norms"]

Rows = Callable[[Tensor, Tensor], Tensor]
"""(p, samples) -> rows, (N, k d): A p, p, and what else is linear in p. p is 0 outside the ``samples``, (N, 1)."""


class KrylovSpace:
    """Directions p of every sample and their images A p. The images are orthonormal.

    A full space loses all its directions when it gains another one.

    Args:
        like: right-hand sides, (N, d).
        size: the largest number M of directions.
        parts: the number k of vectors in a row: an image, its direction and what else is linear in the direction.
    """

    def __init__(self, like: Tensor, size: int, parts: int) -> None:
        n, self._d = like.shape
        self._size = min(size, self._d)
        # the last row stays 0: samples without a new direction write there
        self._rows = like.new_empty(n, self._size + 1, parts * self._d)
        self._rows[:, -1] = 0.0
        self._kept = torch.zeros(n, dtype=torch.long, device=like.device)
        self._sample = torch.arange(n, device=like.device)
        self._filled = 0
        self._eps = torch.finfo(like.dtype).eps

    def forget(self, samples: Tensor) -> None:
        """Forget the directions of some samples, (N, 1)."""
        self._rows[:, : self._filled].masked_fill_(samples[:, :, None], 0.0)
        self._kept.masked_fill_(samples[:, 0], 0)

    def change_matrix(self, scale: Tensor, g: Tensor) -> None:
        """Serve the matrix I − g B, where a row holds an image, its direction p and B p.

        Directions whose images are then as good as dependent are dropped. Of the others, half a full space is kept:
        those that the matrix stretches most, because GMRES finds the others soon.

        Args:
            scale: the directions and their products with B are multiplied by it, (N, d).
            g: (N, 1) or (N, d).
        """
        if self._filled == 0:
            return
        directions, products = (scale[:, None] * part for part in self._rows[:, : self._filled].split(self._d, 2)[1:])
        images = torch.addcmul(directions, g[:, None], products, value=-1)
        rows, squares = torch.cat((images, directions, products), 2), images @ images.mT
        finite = torch.isfinite(squares.sum((1, 2), keepdim=True) + rows.sum((1, 2), keepdim=True))
        squares, vectors = torch.linalg.eigh(torch.where(finite, squares, 0.0))
        keep = squares > 100 * self._size * self._eps * squares[:, -1:]
        turn = torch.where(keep, squares.clamp(min=torch.finfo(squares.dtype).tiny).rsqrt(), 0.0)[:, None] * vectors
        rows = turn.mT @ torch.where(finite, rows, 0.0)
        self._filled = min(self._filled, max(1, self._size // 2))
        # images have length 1: the matrix stretches short directions most
        directions = rows[:, :, self._d : 2 * self._d]
        lengths = directions @ directions.mT
        dropped = torch.where(keep, 0.0, 2 * lengths.diagonal(0, 1, 2).sum(1, keepdim=True) + 1)
        turn = torch.linalg.eigh(lengths + torch.diag_embed(dropped))[1][:, :, : self._filled]
        self._rows[:, : self._filled] = turn.mT @ rows
        self._kept.fill_(self._filled)

    def solve(self, rows: Rows, b: Tensor, target: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Solve A x = b to |b − A x| <= target in every sample.

        Args:
            rows: multiplies by A.
            b: right-hand sides, (N, d).
            target: the largest norm of what may be left of them, (N,).
            limit: products at most.

        Returns:
            x, (N, d), and the norms of what is left, (N,), without the rounding errors.
        """
        x, r = self._project(torch.zeros_like(b), b)
        p, left = r, norms(r)
        for _ in range(limit):
            samples = (left > target)[:, None]
            if not bool(samples.any()):
                break
            row = self._add(rows(torch.where(samples, p, 0.0), samples), samples)
            image, direction = row[:, : self._d], row[:, self._d : 2 * self._d]
            part = (image * r).sum(1, keepdim=True)
            x, r, last = torch.addcmul(x, part, direction), torch.addcmul(r, part, image, value=-1), left
            left = norms(r)
            p = torch.where((left < 0.9 * last)[:, None], r, image)
        return x, left

    def _project(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Add to x what the directions solve of r, and take it from r."""
        rows = self._rows[:, : self._filled]
        for _ in range(2 if self._filled else 0):  # once more, because the images are orthonormal to rounding only
            parts = torch.bmm(r[:, None], rows[:, :, : self._d].mT)
            change = torch.bmm(parts, rows[:, :, : 2 * self._d])[:, 0]
            r, x = r - change[:, : self._d], x + change[:, self._d :]
        return x, r

    def _add(self, row: Tensor, samples: Tensor) -> Tensor:
        """Keep new rows, (N, k d), of some samples, (N, 1). Returns them with images orthonormal to the others."""
        size, d = norms(row[:, : self._d]), self._d
        self.forget(samples & (self._kept == self._size)[:, None])
        if self._filled < self._size:
            self._rows[:, self._filled] = 0.0
        slot = torch.where(samples[:, 0], self._kept, self._size)
        before, new = self._rows[:, : self._filled], row[:, None]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            new = torch.baddbmm(new, new[:, :, :d] @ before[:, :, :d].mT, before, alpha=-1)
        length = norms(new[:, 0, :d])
        scale = torch.where(length > 4 * self._eps * size, 1 / length, 0.0)
        scaled = torch.where(samples, scale[:, None] * new[:, 0], 0.0)
        self._rows[self._sample, slot] = scaled
        self._kept += samples[:, 0]
        self._filled = min(self._filled + 1, self._size)
        return scaled


def norms(b: Tensor) -> Tensor:
    """|b| of each sample, (N,)."""
    norm: Tensor = torch.linalg.vector_norm(b.detach().reshape(len(b), -1), dim=1)
    return norm


def gmres(product: Callable[[Tensor], Tensor], b: Tensor, target: Tensor) -> Tensor:
    """The solution of `gmres_and_remainder`, with a warning if more than ten times the target is left."""
    x, left = gmres_and_remainder(product, b, target)
    share = (left / norms(b))[left > 10 * target.clamp(min=torch.finfo(b.dtype).tiny ** 0.5)]
    if len(share):
        warnings.warn(
            f"a linear equation of an implicit step must be solved for gradients, but {share.max().item():.1g} of "
            "its right-hand side is left; the gradients are inexact: set max_step, so that steps are shorter",
            RuntimeWarning,
            stacklevel=2,
        )
    return x


def gmres_and_remainder(
    product: Callable[[Tensor], Tensor], b: Tensor, target: Tensor, restart: int = 100, rounds: int = 10
) -> tuple[Tensor, Tensor]:
    """Solve A x = b to |b − A x| <= target in every sample, by GMRES. Samples are solved side by side.

    This is the form without a Hessenberg matrix. Images A p of directions p are made orthonormal, and the residual
    loses its part along each image. The residual is the next direction. Where it hardly fell, the last image is the
    next direction instead; this avoids a breakdown.

    Args:
        product: v -> A v on (N, *S), each sample by itself.
        b: right-hand sides, (N, *S).
        target: the largest norm of what may be left of them, (N,).
        restart: products before a restart.
        rounds: restarts at most.

    Returns:
        x, (N, *S), and |b − A x|, (N,).

    Source: Jiránek & Rozložník 2010, Numer. Algorithms 53 (adaptive simpler GMRES).
    """
    r = b.reshape(len(b), -1)
    x, target = torch.zeros_like(r), target.clamp(min=torch.finfo(b.dtype).tiny ** 0.5)
    space, left = KrylovSpace(r, restart, 2), norms(r)

    def rows(p: Tensor, samples: Tensor) -> Tensor:
        return torch.cat((product(p.reshape(b.shape)).reshape(p.shape), p), 1)

    for _ in range(rounds):
        more, left = space.solve(rows, r, target, min(restart, r.shape[1]))
        x = x + more
        if not bool((left > target).any()):
            break
        r = b.reshape(r.shape) - product(x.reshape(b.shape)).reshape(r.shape)
        left = norms(r)
    return x.reshape(b.shape), left
