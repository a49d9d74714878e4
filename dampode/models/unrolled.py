"""Equilibrium blocks at an intermediate state, for attacks that do not trust the gradient of an equilibrium."""

import copy

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int
from dampode.block import EquilibriumBlock
from dampode.functional import damped_rhs

__all__ = ["UnrolledBlock", "unrolled"]


class UnrolledBlock(nn.Module):
    """The intermediate state of an `EquilibriumBlock` after some fixed-point steps, with the gradient of these steps.

    A step is x ← x + share (−λx + ρ f(x, u)) / max(λ, 1), from x = 0.

    Args:
        block: the block, whose parameters are used.
        steps: number of steps.
        share: of a full step, in (0, 1].

    Raises:
        ValueError, TypeError: an argument is out of range.
    """

    def __init__(self, block: EquilibriumBlock, steps: int, share: float = 1.0) -> None:
        super().__init__()
        require_instance(block, EquilibriumBlock, "block")
        require_positive_int(steps, "steps")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        self.block = block
        self.steps = steps
        self.share = share

    def forward(self, u: Tensor) -> Tensor:
        """The state, (N, *S)."""
        func, x = self.block.func(u), torch.zeros_like(u)
        for _ in range(self.steps):
            lam, weight, fx = func.parts(0.0, x)
            x = x + self.share * damped_rhs(x, lam, weight, fx) / lam.detach().clamp(min=1.0)
        return x


def unrolled(model: nn.Module, steps: int, share: float = 1.0) -> nn.Module:
    """A copy of a network in which every equilibrium block stops at an intermediate state.

    It is the source of an attack on the intermediate states: ``robustness.Transfer(unrolled(model, 5), PGD())``. If
    this attack is stronger than the same attack on the network itself, the network hides its gradient.

    Args:
        model: a network with at least one `EquilibriumBlock`.
        steps: number of steps, as in `UnrolledBlock`.
        share: of a full step, in (0, 1].

    Raises:
        ValueError: the network has no equilibrium block.

    Source: Yang, Pang & Liu 2022, A closer look at the adversarial robustness of deep equilibrium models.
    """
    if isinstance(model, EquilibriumBlock):
        return UnrolledBlock(copy.deepcopy(model), steps, share)
    twin = copy.deepcopy(model)
    found = [name for name, part in twin.named_modules() if isinstance(part, EquilibriumBlock)]
    if not found:
        raise ValueError("the network must have an EquilibriumBlock, got none; attack other networks directly")
    for name in found:
        parent, _, child = name.rpartition(".")
        block = twin.get_submodule(name)
        assert isinstance(block, EquilibriumBlock)
        setattr(twin.get_submodule(parent), child, UnrolledBlock(block, steps, share))
    return twin
