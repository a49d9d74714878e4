"""Derivatives of converged stages by the implicit function theorem, of first and second order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def attached(phi: Map, u: Tensor, tol: float) -> Tensor:
    """The fixed point u = φ(u), known in value, with its derivatives.

    Two chord steps u ← u + M^{-1} (φ(u) − u), M = I − ∂φ/∂u at the value of u and constant: they change u by its error
    alone, and each makes one more derivative right.

    Args:
        phi: differentiable in what it closes over.
        u: the converged value, without gradient.
        tol: of the linear solves of the backward pass, relative.

    Returns:
        u, (N, *S).
    """
    point = u.detach().requires_grad_()
    with torch.enable_grad():
        value = phi(point)
    operator = _Operator(point, value, tol)
    for _ in range(2):
        u = u + _Inverse.apply(phi(u) - u, operator)
    return u


class _Operator:
    """M = I − ∂φ/∂u of every sample, by products alone."""

    def __init__(self, point: Tensor, value: Tensor, tol: float) -> None:
        self._point, self._value, self._tol = point, value, tol

    def _transposed(self, w: Tensor) -> Tensor:
        return w - self._pulled(w, False)

    def _pulled(self, w: Tensor, graph: bool) -> Tensor:
        (got,) = torch.autograd.grad(
            self._value, self._point, w, retain_graph=True, create_graph=graph, materialize_grads=True
        )
        return got

    def _direct(self, v: Tensor) -> Tensor:
        seed = torch.zeros_like(v, requires_grad=True)
        with torch.enable_grad():
            pulled = self._pulled(seed, True)
        if not pulled.requires_grad:
            return v
        (pushed,) = torch.autograd.grad(pulled, seed, v, materialize_grads=True)
        return v - pushed

    def solve(self, b: Tensor, transposed: bool) -> Tensor:
        """M^{-1} b or M^{-T} b."""
        with torch.no_grad():
            return gmres(self._transposed if transposed else self._direct, b.detach(), self._tol)


class _Inverse(torch.autograd.Function):
    """M^{-1} r. Its value is r: r is the error of a converged solve, and M^{-1} r is no better for it."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, operator: _Operator) -> Tensor:
        ctx.operator = operator
        return r.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        solved: Tensor = _InverseTransposed.apply(grad, ctx.operator)
        return solved, None


class _InverseTransposed(torch.autograd.Function):
    """M^{-T} g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, operator: _Operator) -> Tensor:
        ctx.operator = operator
        return operator.solve(g, True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.solve(grad, False), None


def gmres(product: Map, b: Tensor, tol: float, restart: int = 40, rounds: int = 5) -> Tensor:
    """Solve A x = b to |b − A x| <= tol |b| in every sample, by restarted GMRES; samples are solved side by side.

    Args:
        product: v -> A v on (N, *S), each sample by itself.
        b: right-hand sides, (N, *S).
        tol: relative tolerance.
        restart: products before a restart.
        rounds: restarts at most.

    Returns:
        x, (N, *S).

    Source: Saad & Schultz 1986.
    """
    target = (tol * torch.linalg.vector_norm(b.reshape(len(b), -1), dim=1)).clamp(min=torch.finfo(b.dtype).tiny ** 0.5)
    tiny = torch.finfo(b.dtype).tiny
    x, r = torch.zeros_like(b), b.reshape(len(b), -1)
    size = min(restart, r.shape[1])
    for _ in range(rounds):
        norm = torch.linalg.vector_norm(r, dim=1)
        if not bool((norm > target).any()):
            break
        basis, images = [r / norm.clamp(min=tiny)[:, None]], []
        for _ in range(size):
            image = product(basis[-1].reshape(b.shape)).reshape(len(b), -1)
            images.append(image)
            span, w = torch.stack(basis, 2), image[:, :, None]
            for _ in range(2):  # twice is enough for orthogonality to rounding
                w = w - span @ (span.mT @ w)
            length = torch.linalg.vector_norm(w[:, :, 0], dim=1, keepdim=True)
            basis.append(torch.where(length > 1e3 * tiny, w[:, :, 0] / length.clamp(min=tiny), 0.0))
            stacked = torch.stack(images, 2)
            orthogonal, upper = torch.linalg.qr(stacked)
            left = r[:, :, None] - orthogonal @ (orthogonal.mT @ r[:, :, None])
            if not bool((torch.linalg.vector_norm(left[:, :, 0], dim=1) > target).any()):
                break
        upper = upper + torch.eye(upper.shape[1], dtype=b.dtype, device=b.device) * (upper == 0) * tiny
        y = torch.linalg.solve_triangular(upper, orthogonal.mT @ r[:, :, None], upper=True)
        y = torch.where(torch.isfinite(y), y, 0.0)
        x = x + (torch.stack(basis[: y.shape[1]], 2) @ y).reshape(b.shape)
        r = (b - product(x)).reshape(len(b), -1)
    return x
