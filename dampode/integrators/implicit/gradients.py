"""First and second derivatives of a converged stage, by the implicit function theorem."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dampode.integrators.implicit.krylov import gmres, norms

__all__ = ["LinearSolver", "with_implicit_gradient"]

Map = Callable[[Tensor], Tensor]

LinearSolver = Callable[[Map, Tensor, Tensor], Tensor]
"""(v -> A v, b, the largest |b − A x| of each sample) -> x."""


def with_implicit_gradient(
    nonlinear: Map,
    lam_change: Tensor | None,
    explicit: Tensor,
    g: Tensor,
    u: Tensor,
    rtol: float,
    linear_solver: LinearSolver | None = None,
) -> Tensor:
    """The stage u = a + g (N(u) + l u), unchanged in value, with its first and second derivatives.

    These come from two chord steps u ← u + M^{-1} (a + g (N(u) + l u) − u). M = I − g ∂N/∂u is taken at the value of u
    and is constant. The steps do not change the value, and each of them makes one more derivative right. A backward
    pass meets the second step first. What it passes on to the first step is only what its linear solve has left over. A
    derivative of a gradient needs both steps.

    Args:
        nonlinear: N at the stage's time. No derivative of it may lead back to earlier steps, because every product
            with ∂N/∂u would then pass over all of them. The other arguments may depend on earlier steps.
        lam_change: l, 0 in value, where N depends on earlier steps by l u; else None.
        explicit: a, the explicit part of the equation, (N, *S).
        g: the factor of N, which broadcasts to u.
        u: the converged value, (N, *S), without gradient.
        rtol: relative tolerance of the linear solves of the backward pass.
        linear_solver: solves the linear equations; None for `gmres`.

    Returns:
        u, (N, *S). It requires gradients whether or not an argument does.
    """

    def residual(u: Tensor, n: Tensor) -> Tensor:
        return torch.addcmul(explicit, g, n if lam_change is None else torch.addcmul(n, lam_change, u)) - u

    point = u.detach().requires_grad_()
    n = nonlinear(point).to(u.dtype)  # under autocast N may be of half precision, too coarse for the linear solves
    operator = _NewtonMatrix(point, n, g.detach(), rtol, linear_solver or gmres)
    u = u + _Inverse.apply(residual(u, n), operator, False)
    twice: Tensor = u + _Inverse.apply(residual(u, nonlinear(u)), operator, True)
    return twice


class _NewtonMatrix:
    """M = I − g ∂N/∂u of every sample, by products alone.

    Args:
        point: u, (N, *S).
        n: N(u), with its graph, (N, *S).
        g: the factor of N.
        rtol: relative tolerance of the linear solves.
        linear_solver: solves the linear equations.
    """

    def __init__(self, point: Tensor, n: Tensor, g: Tensor, rtol: float, linear_solver: LinearSolver) -> None:
        self._linear_solver = linear_solver
        self._point, self._n, self._g, self._rtol = point, n, g, max(rtol, 4 * torch.finfo(n.dtype).eps)
        self.second_size: Tensor | None = None
        """|b| of the second chord step, (N,), from when the backward pass met it until it meets the first one."""

    def _transposed_product(self, w: Tensor) -> Tensor:
        return w - self._vjp(self._g * w, False)

    def _vjp(self, w: Tensor, create_graph: bool) -> Tensor:
        if not self._n.requires_grad:  # N depends neither on u nor on a parameter
            return torch.zeros_like(w)
        (product,) = torch.autograd.grad(
            self._n, self._point, w, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
        return product

    def _product(self, v: Tensor) -> Tensor:
        # the derivative of a vjp with respect to its vector is a jvp
        vector = torch.zeros_like(v, requires_grad=True)
        with torch.enable_grad():
            vjp = self._vjp(vector, True)
        if not vjp.requires_grad:
            return v
        (jvp,) = torch.autograd.grad(vjp, vector, v, materialize_grads=True)
        return v - self._g * jvp

    def solve(self, b: Tensor, transposed: bool) -> Tensor:
        """M^{-1} b or M^{-T} b. Autocast is for f only, so it is off here."""
        with torch.no_grad(), torch.autocast(b.device.type, enabled=False):
            product = self._transposed_product if transposed else self._product
            return self._linear_solver(product, b.detach(), self._rtol * norms(b))

    def is_remainder(self, b: Tensor) -> bool:
        """Whether ``b``, of the first chord step, is no more than what the solve for the second one left over."""
        size, self.second_size = self.second_size, None
        return size is not None and bool((norms(b) <= 2 * self._rtol * size).all())


class _Inverse(torch.autograd.Function):
    """M^{-1} r. Its value is 0: r is the residual of a converged solve."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, operator: _NewtonMatrix, second: bool) -> Tensor:
        ctx.operator, ctx.second = operator, second
        return torch.zeros_like(r)

    @staticmethod
    def backward(ctx: Any, b: Tensor) -> tuple[Tensor | None, None, None]:
        if ctx.second:
            ctx.operator.second_size = norms(b)
        elif ctx.operator.is_remainder(b) and not torch.is_grad_enabled():
            return None, None, None
        solved: Tensor = _InverseTransposed.apply(b, ctx.operator)
        return solved, None, None


class _InverseTransposed(torch.autograd.Function):
    """M^{-T} b."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, operator: _NewtonMatrix) -> Tensor:
        ctx.operator = operator
        return operator.solve(b, True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.solve(grad, False), None
