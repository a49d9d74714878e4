"""The damping coefficients of a network."""

import torch
from torch import nn

from dampode.block import DampedBlock

__all__ = ["coefficients"]


def coefficients(model: nn.Module) -> list[float]:
    """The damping coefficients λ_n of a model after act, one per `DampedBlock`, in order.

    Args:
        model: a model whose damped blocks have one λ each.

    Returns:
        λ_n in the order of the blocks; empty if the model has no `DampedBlock`.

    Raises:
        ValueError: a λ depends on the state or on time, or is not a single number.
    """
    values = []
    for name, block in model.named_modules():
        if not isinstance(block, DampedBlock):
            continue
        damping = block.func.damping
        if damping.varies:
            raise ValueError(
                f"coefficients needs a fixed λ; the λ of {name} depends on the state or on time: "
                "evaluate its func.damping at a time and a state instead"
            )
        state = next(block.parameters(), torch.zeros(()))
        lam = damping(0.0, state.detach().new_zeros(()))
        if lam.numel() != 1:
            raise ValueError(f"coefficients needs one λ per block; the λ of {name} has shape {tuple(lam.shape)}")
        values.append(lam.item())
    return values
