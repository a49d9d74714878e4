"""A report of the equilibrium blocks of a network, per block and sample, and a penalty that keeps them well posed."""

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int, require_state
from dampode._precision import full_float32
from dampode.block import EquilibriumBlock
from dampode.contractive import ConvexPotential
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.stability.spectrum import spectral_abscissa

__all__ = ["EquilibriumReport", "EquilibriumRow", "equilibrium_report", "jacobian_penalty"]


@dataclass(frozen=True)
class EquilibriumRow:
    """One sample in one equilibrium block."""

    block: str
    """Name of the block in the network."""
    sample: int
    """Number of the sample in the batch."""
    status: str
    """How the search ended, such as SUCCESS."""
    residual: float
    """Root mean square of −λx + ρ f at x*, as measured."""
    calls: int
    """Calls of f."""
    abscissa: float
    """α = max Re ν of the damped field at x*: x* is asymptotically stable if α < 0 (Prop. 3.3). NaN without success."""
    certified: bool
    """Whether contraction is proved for all states: λ > 0 and f(·, u) is the negative gradient of a convex function."""


@dataclass(frozen=True)
class EquilibriumReport:
    """The rows of all blocks and samples."""

    rows: tuple[EquilibriumRow, ...]

    def table(self) -> str:
        """A Markdown table."""
        head = (
            "| block | sample | status | residual | calls | α | contraction certified |\n|---|---|---|---|---|---|---|"
        )
        lines = [
            f"| {r.block} | {r.sample} | {r.status} | {r.residual:.1e} | {r.calls} | {r.abscissa:.3g} | "
            f"{'yes' if r.certified else 'no'} |"
            for r in self.rows
        ]
        return "\n".join((head, *lines))

    def to_json(self) -> str:
        """The rows as JSON, where NaN is null."""
        rows = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(r).items()} for r in self.rows
        ]
        return json.dumps(rows, indent=2)


@full_float32()
def equilibrium_report(model: nn.Module, x: Tensor) -> EquilibriumReport:
    """Residual, calls, spectral abscissa and certificate of every equilibrium block, for every sample of x.

    The searches start where the network starts them. The abscissa costs an eigenvalue search per block and sample.

    Args:
        model: a network in eval mode with at least one `EquilibriumBlock`.
        x: its input, (N, *S).

    Raises:
        ValueError: the network has no equilibrium block; as `spectral_abscissa`.
        ConvergenceError: the eigenvalues did not converge.
    """
    require_instance(model, nn.Module, "model")
    require_state(x)
    blocks = {name or "the model": m for name, m in model.named_modules() if isinstance(m, EquilibriumBlock)}
    if not blocks:
        raise ValueError("the network must have an EquilibriumBlock, got none; other flows are rows of layer_report")
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return blocks[name].register_forward_pre_hook(lambda module, args: inputs.update({name: args[0].detach()}))

    handles = [keep(name) for name in blocks]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return EquilibriumReport(tuple(row for name, u in inputs.items() for row in _rows(name, blocks[name], u)))


def _rows(name: str, block: EquilibriumBlock, u: Tensor) -> list[EquilibriumRow]:
    """The rows of one block, whose input is u."""
    with torch.no_grad():
        found = block.equilibria(u)
    rows = []
    for n, status in enumerate(found.status):
        func, state = block.func(u[n : n + 1]), found.x[n : n + 1]
        sound = bool(torch.isfinite(state).all())
        abscissa = spectral_abscissa(func, state) if sound and status.name == "SUCCESS" else math.nan
        lam = func.lam(0.0, state).min().item() if sound else math.nan
        certified = isinstance(block.f, ConvexPotential) and not block.damping.varies and lam > 0
        residual = found.residual[n].item()
        rows.append(EquilibriumRow(name, n, status.name, residual, int(found.nfe[n]), abscissa, certified))
    return rows


def jacobian_penalty(
    func: DampedODEFunc, x: Tensor, t: Scalar = 0.0, draws: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """An unbiased estimate of ‖∂(ρ f)/∂x‖_F² / d at x, for a loss: a small one keeps equilibria stable and cheap.

    It is the mean of |Jᵀv|² / d over normal v. It costs a call of f and a product per draw, and can be differentiated.

    Args:
        func: the damped field, such as ``block.func(u)``.
        x: where, (N, *S), such as the block's output.
        t: time.
        draws: number of v.
        generator: of v; None for torch's own.

    Returns:
        The mean over the samples, ().

    Source: Bai, Koltun & Kolter 2021, Stabilizing equilibrium models by Jacobian regularization; Hutchinson 1990.
    """
    require_instance(func, DampedODEFunc, "func", "an EquilibriumBlock gives it as block.func(u)")
    require_state(x)
    require_positive_int(draws, "draws")
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        _, weight, fx = func.parts(t, point)
        driven = weight * fx
        total = x.new_zeros(())
        for _ in range(draws):
            v = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
            (product,) = torch.autograd.grad(driven, point, v, create_graph=True, materialize_grads=True)
            total = total + product.square().sum()
    return total / (draws * x.numel())
