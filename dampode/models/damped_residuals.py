"""Damp the residual blocks of a network that already exists, such as torchvision's or timm's ResNets."""

from collections.abc import Callable, Collection
from copy import deepcopy
from typing import NamedTuple

from torch import nn

from dampode._checks import require_instance
from dampode.block import DampedBlock
from dampode.damping import Damping, Learned
from dampode.weighting import Weighting, unit

__all__ = ["Residual", "damp", "residual_of"]


class Residual(NamedTuple):
    """A block after(x + f(x)) in two parts."""

    f: nn.Module
    """The branch: everything between the block's input and the sum."""
    after: nn.Module
    """What follows the sum: ReLU, or `Identity` if nothing does."""


_BASIC = ("conv1", "bn1", "relu", "conv2", "bn2")
_TIMM_BASIC = ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se", "drop_path")
_TIMM_BOTTLENECK = (
    *("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa"),
    *("conv3", "bn3", "se", "drop_path"),
)
_LAYOUTS = (
    (_BASIC, "relu"),
    ((*_BASIC, "relu", "conv3", "bn3"), "relu"),
    (_TIMM_BASIC, "act2"),
    (_TIMM_BOTTLENECK, "act3"),
)
"""The branch's children in the order in which they run, and the child after the sum: torchvision's, then timm's."""
_OPTIONAL = {"drop_block", "aa", "se", "drop_path"}


def _default_damping() -> Damping:
    """A new ``Learned(0.2, 0.25)``."""
    return Learned(0.2, 0.25)


def damp(
    network: nn.Module,
    blocks: Collection[type[nn.Module]],
    damping: Callable[[], Damping] = _default_damping,
    rho: Weighting = unit,
    residual: Callable[[nn.Module], Residual | None] | None = None,
) -> nn.Module:
    """A copy whose blocks after(x + f(x)) are after((1 − λ) x + ρ(λ) f(x)), Eqs. 12 and 14. It keeps every weight.

    With λ = 0 the copy computes the network to the last bit. The network itself is unchanged.

    Args:
        network: any module that holds residual blocks.
        blocks: the classes of the blocks, such as torchvision's ``Bottleneck``. A subclass may run its parts in another
            order, so it has to be named itself.
        damping: makes a new λ for each block.
        rho: the weight function ρ.
        residual: gives the parts of a block, or None for a block that changes the state's shape and stays as it is;
            None takes `residual_of`, which knows the ResNet blocks of torchvision and timm.

    Returns:
        The damped copy, in the network's mode. Each damped block is ``Sequential(DampedBlock(f), after)``.

    Raises:
        TypeError: network is not a module, or damping or residual returns something else.
        ValueError: no block of these classes can be damped, or a block has parts that `residual_of` does not know.

    Source: Yang et al. 2020, Eqs. 12 and 14.
    """
    require_instance(network, nn.Module, "network")
    parts_of = residual_of if residual is None else residual
    damped = deepcopy(network)
    found = [(path, m) for path, m in damped.named_modules(remove_duplicate=False) if type(m) in blocks]
    if any(path == "" for path, _ in found):
        raise ValueError("damp replaces blocks inside a network, got a block itself: wrap its branch in DampedBlock")
    replaced: dict[nn.Module, nn.Module] = {}  # a block that is used twice keeps one λ
    for path, block in found:
        if block not in replaced:
            parts = parts_of(block)
            if parts is None:
                continue
            require_instance(parts, Residual, "residual(block)", "return Residual(f, after) or None")
            flow = DampedBlock(parts.f, damping(), rho).to(next(block.parameters()))
            replaced[block] = nn.Sequential(flow, parts.after).train(block.training)
        damped.set_submodule(path, replaced[block])
    if not replaced:
        names = ", ".join(sorted(kind.__name__ for kind in blocks)) or "no class"
        raise ValueError(
            f"damp needs a block that keeps the state's shape, found none among {len(found)} of {names}: "
            "give the classes of the network's residual blocks"
        )
    return damped


def residual_of(block: nn.Module) -> Residual | None:
    """The parts of a post-activation block in the layout of torchvision's or timm's ResNets.

    Args:
        block: a basic block or a bottleneck: relu(x + f(x)).

    Returns:
        Its branch and its last activation; None if it has a ``downsample``, so that it has no x to damp.

    Raises:
        ValueError: the block's children are of another layout.

    Source: He et al. 2016, Deep residual learning for image recognition.
    """
    children = dict(block.named_children())
    if children.pop("downsample", None) is not None:
        return None
    for order, last in _LAYOUTS:
        known = {*order, last}
        if known - _OPTIONAL <= set(children) <= known:
            return Residual(nn.Sequential(*(children[name] for name in order if name in children)), children[last])
    raise ValueError(
        f"a block must have the children of a ResNet block of torchvision or timm, {type(block).__name__} has "
        f"{', '.join(children) or 'none'}: pass residual=, a function that returns Residual(f, after)"
    )
