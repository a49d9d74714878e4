"""Derivatives of an equilibrium, by the implicit function theorem or by a truncated series, with a measured error."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dampode.integrators.implicit.gradients import with_implicit_gradient
from dampode.integrators.implicit.krylov import gmres_and_remainder

__all__ = ["GradientReport", "InexactGradientWarning", "equilibrium_with_gradient"]

Map = Callable[[Tensor], Tensor]


class InexactGradientWarning(UserWarning):
    """The linear equations of a gradient were not solved to their tolerance."""


@dataclass
class GradientReport:
    """How exactly the last backward pass solved (I − ∂g/∂x)ᵀ w = b, where g is the fixed-point map."""

    rtol: float | None
    """The tolerance; None for a truncated series, which promises none."""
    residual: Tensor | None = None
    """|b − (I − ∂g/∂x)ᵀ w| / |b| of each sample, (N,), as measured; None before a backward pass."""
    products: int = 0
    """Products with the transposed Jacobian in all backward passes."""

    def solve(self, product: Map, b: Tensor, target: Tensor) -> Tensor:
        """Solve by GMRES, measure what is left, and warn if that is more than the target."""

        def counted(v: Tensor) -> Tensor:
            self.products += 1
            return product(v)

        w, _ = gmres_and_remainder(counted, b, target)
        self.record(b - counted(w), b)
        assert self.residual is not None
        if self.rtol is not None and bool((self.residual > 2 * self.rtol).any()):
            warnings.warn(
                f"the gradient of an equilibrium must solve its linear equations to {self.rtol:.0e}, got "
                f"{self.residual.max().item():.1e}: they are nearly singular there; add damping, add jacobian_penalty "
                "to the loss, or raise gradient_rtol",
                InexactGradientWarning,
                stacklevel=2,
            )
        return w

    def record(self, left: Tensor, b: Tensor) -> None:
        """Keep |left| / |b| of every sample."""
        left, b = (torch.linalg.vector_norm(v.detach().reshape(len(v), -1), dim=1) for v in (left, b))
        self.residual = torch.where(b > 0, left / b, 0.0)


def equilibrium_with_gradient(g: Map, x: Tensor, report: GradientReport, terms: int | None) -> Tensor:
    """The equilibrium x = g(x), unchanged in value, with derivatives to all that g depends on.

    Args:
        g: the fixed-point map; it is called twice, or once for a truncated series.
        x: the equilibrium, (N, *S), without gradient.
        report: gets the measured error of the backward pass, and has the tolerance of it.
        terms: None for the implicit function theorem, which gives second derivatives too; else the number of terms of
            the Neumann series Σ_j (∂g/∂xᵀ)^j b that the backward pass sums, and no second derivatives.

    Returns:
        x, (N, *S).

    Source: Bai, Kolter & Koltun 2019, Deep equilibrium models; Geng et al. 2021, On training implicit models (phantom
    gradients).
    """
    if terms is None:
        zero, one = torch.zeros_like(x), x.new_ones(())
        return with_implicit_gradient(g, None, zero, one, x, report.rtol or 0.0, report.solve)
    point = x.detach().requires_grad_()
    value = g(point).to(x.dtype)
    truncated: Tensor = _Truncated.apply(value, point, x, report, terms)
    return truncated


class _Truncated(torch.autograd.Function):
    """x, with the gradient to g(x) of a truncated Neumann series."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, point: Tensor, x: Tensor, report: GradientReport, terms: int) -> Tensor:
        ctx.graph = value, point  # the inputs themselves, whose graph the products need
        ctx.report, ctx.terms = report, terms
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, b: Tensor) -> tuple[Tensor | None, ...]:
        value, point = ctx.graph
        total, term = torch.zeros_like(b), b
        for _ in range(ctx.terms):
            total = total + term
            (term,) = torch.autograd.grad(value, point, term, retain_graph=True, materialize_grads=True)
            ctx.report.products += 1
        ctx.report.record(term, b)  # what is left of b is the next term
        return total, None, None, None, None
