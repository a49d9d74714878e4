"""Derivatives of converged stages by the implicit function theorem, of first and second order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def attached(field: Map, lead: Tensor | None, a: Tensor, g: Tensor, u: Tensor, tol: float) -> Tensor:
    """The stage u = a + g (N(u) + l u), known in value, with its derivatives.

    Two chord steps u ← u + M^{-1} (a + g (N(u) + l u) − u), M = I − g ∂N/∂u at the value of u and constant: they do not
    change the value, and each makes one more derivative right. A backward pass meets the second step first, and leaves
    to the first one no more than its linear solve left; a derivative of a gradient needs both.

    Args:
        field: N at the stage's time. No derivative of it may lead back to the steps before, over all of which every
            product with ∂N/∂u would pass; those of the rest may.
        lead: l, 0 in value, where N depends on the steps before by l u; else None.
        a: the equation's explicit part, (N, *S).
        g: what N counts with, which broadcasts to u.
        u: the converged value, (N, *S), without gradient.
        tol: of the linear solves of the backward pass, relative.

    Returns:
        u, (N, *S); it requires gradients whether or not anything else does.
    """

    def error(u: Tensor, n: Tensor) -> Tensor:
        return torch.addcmul(a, g, n if lead is None else torch.addcmul(n, lead, u)) - u

    point = u.detach().requires_grad_()
    n = field(point).to(u.dtype)  # under autocast N may be of half precision, which is no measure of the solves
    operator = _Operator(point, n, g.detach(), tol)
    u = u + _Inverse.apply(error(u, n), operator, False)
    found: Tensor = u + _Inverse.apply(error(u, field(u)), operator, True)
    return found


class _Operator:
    """M = I − g ∂N/∂u of every sample, by products alone."""

    def __init__(self, point: Tensor, n: Tensor, g: Tensor, tol: float) -> None:
        self._point, self._n, self._g, self._tol = point, n, g, max(tol, 4 * torch.finfo(n.dtype).eps)
        self.met: Tensor | None = None
        """|b| of the samples, (N,), where the backward pass has met the second chord step and not the first."""

    def _transposed(self, w: Tensor) -> Tensor:
        return w - self._pulled(self._g * w, False)

    def _pulled(self, w: Tensor, graph: bool) -> Tensor:
        (got,) = torch.autograd.grad(
            self._n, self._point, w, retain_graph=True, create_graph=graph, materialize_grads=True
        )
        return got

    def _direct(self, v: Tensor) -> Tensor:
        seed = torch.zeros_like(v, requires_grad=True)
        with torch.enable_grad():
            pulled = self._pulled(seed, True)
        if not pulled.requires_grad:
            return v
        (pushed,) = torch.autograd.grad(pulled, seed, v, materialize_grads=True)
        return v - self._g * pushed

    def solve(self, b: Tensor, transposed: bool) -> Tensor:
        """M^{-1} b or M^{-T} b, without autocast, which is f's own matter."""
        with torch.no_grad(), torch.autocast(b.device.type, enabled=False):
            return gmres(self._transposed if transposed else self._direct, b.detach(), self._tol * norms(b))

    def negligible(self, b: Tensor) -> bool:
        """Whether ``b``, of the first chord step, is no more than what the solve for the second one left."""
        met, self.met = self.met, None
        return met is not None and bool((norms(b) <= 2 * self._tol * met).all())


class _Inverse(torch.autograd.Function):
    """M^{-1} r. Its value is 0: r is the error of a converged solve."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, operator: _Operator, second: bool) -> Tensor:
        ctx.operator, ctx.second = operator, second
        return torch.zeros_like(r)

    @staticmethod
    def backward(ctx: Any, b: Tensor) -> tuple[Tensor | None, None, None]:
        if ctx.second:
            ctx.operator.met = norms(b)
        elif ctx.operator.negligible(b) and not torch.is_grad_enabled():
            return None, None, None
        solved: Tensor = _InverseTransposed.apply(b, ctx.operator)
        return solved, None, None


class _InverseTransposed(torch.autograd.Function):
    """M^{-T} b."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, operator: _Operator) -> Tensor:
        ctx.operator = operator
        return operator.solve(b, True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.solve(grad, False), None


def norms(b: Tensor) -> Tensor:
    """|b| of the samples, (N,)."""
    size: Tensor = torch.linalg.vector_norm(b.detach().reshape(len(b), -1), dim=1)
    return size


def gmres(product: Map, b: Tensor, target: Tensor, restart: int = 40, rounds: int = 5) -> Tensor:
    """Solve A x = b to |b − A x| <= target in every sample, by restarted GMRES; samples are solved side by side.

    The form without a Hessenberg matrix: images A p of directions p are made orthonormal, the residual loses its part
    along each, and is the next direction; where it hardly fell, the last image is, with which nothing breaks down.

    Args:
        product: v -> A v on (N, *S), each sample by itself.
        b: right-hand sides, (N, *S).
        target: what may be left of them, (N,).
        restart: products before a restart.
        rounds: restarts at most.

    Returns:
        x, (N, *S).

    Source: Jiránek & Rozložník 2010, Numer. Algorithms 53 (adaptive simpler GMRES).
    """
    x, r = torch.zeros_like(b).reshape(len(b), -1), b.reshape(len(b), -1)
    left, target = norms(r), target.clamp(min=torch.finfo(b.dtype).tiny ** 0.5)
    d = r.shape[1]
    pairs = r.new_empty(len(r), min(restart, d), 2 * d)  # an image and its direction in a row
    for _ in range(rounds):
        p = r
        for k in range(pairs.shape[1]):
            if not bool((left > target).any()):
                return x.reshape(b.shape)
            q = product(p.reshape(b.shape)).reshape(r.shape)
            pair, before = torch.cat((q, p), 1)[:, None], pairs[:, :k]
            for _ in range(2):  # twice is enough for orthogonality to rounding
                pair = torch.baddbmm(pair, pair[:, :, :d] @ before[:, :, :d].mT, before, alpha=-1)
            length = norms(pair[:, :, :d])
            scale = torch.where(length > 4 * torch.finfo(b.dtype).eps * norms(q), 1 / length, 0.0)
            pairs[:, k] = scale[:, None] * pair[:, 0]
            image, direction = pairs[:, k].split(d, 1)
            part = (image * r).sum(1, keepdim=True)
            x, r, last = torch.addcmul(x, part, direction), torch.addcmul(r, part, image, value=-1), left
            left = norms(r)
            p = torch.where((left < 0.9 * last)[:, None], r, image)
        r = b.reshape(r.shape) - product(x.reshape(b.shape)).reshape(r.shape)
        left = norms(r)
    return x.reshape(b.shape)
