"""Four networks with one start, which separate the effect of damping from the effect of the start.

If batch norm reads the state, a frozen λ only sets branch gains (`dampode.models.fold`). A damped network may therefore
behave differently because λ is trained, because of the gains, or because of its initial weights alone.
"""

from copy import deepcopy
from typing import NamedTuple

from torch import nn

from dampode.block import DampedBlock, Transition
from dampode.damping import Constant, Learned
from dampode.models.folding import fold
from dampode.models.preresnet import PreResNet, branch_of, layers

__all__ = ["AblationNetworks", "ablation_networks", "frozen", "gains", "plain"]


class AblationNetworks(NamedTuple):
    """Four networks that share their initial weights and, if they are damped, their initial λ_n."""

    learned: PreResNet
    """λ_n is trained: the network given."""
    frozen: PreResNet
    """λ_n stays at its initial value."""
    gains: PreResNet
    """A plain ResNet whose initial weights give it the same function as ``frozen``."""
    plain: PreResNet
    """The plain ResNet."""


def ablation_networks(model: PreResNet) -> AblationNetworks:
    """Make the four networks of an ablation from a damped network at its start, such as ``in_resnet(110)``.

    Args:
        model: an untrained pre-activation network with learned λ. It becomes ``learned`` itself, not a copy.

    Returns:
        The networks: λ learned, λ frozen, the gains in the initial weights of a plain ResNet, plain.

    Raises:
        ValueError, TypeError: as `frozen` and `fold`.
    """
    return AblationNetworks(model, frozen(model), gains(model), plain(model))


def frozen(model: PreResNet) -> PreResNet:
    """A copy whose λ_n keep their present values: `Learned` becomes `Constant`.

    Raises:
        ValueError: a λ depends on the state or on time.
    """
    copy = deepcopy(model)
    for name, block in copy.named_modules():
        if not isinstance(block, DampedBlock):
            continue
        damping = block.func.damping
        if damping.varies:
            raise ValueError(f"frozen needs a fixed λ; the λ of {name} depends on the state or on time")
        if isinstance(damping, Learned):
            block.func.damping = Constant(damping(0.0, damping.raw.detach()))
    return copy


def gains(model: PreResNet) -> PreResNet:
    """A plain ResNet whose branch weights start with the damped network's gains, ρ(λ_n) / s_{n+1} (see `fold`).

    It starts as the same function as ``frozen(model)``. Every gain g multiplies a branch's weights, so it divides the
    branch's effective learning rate by g². Batch norm's statistics start afresh.

    Raises:
        ValueError, TypeError: as `fold`.
    """
    network = fold(model)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network.train(model.training)


def plain(model: PreResNet) -> PreResNet:
    """A plain ResNet, x + f(x), with the network's present weights and no damping."""
    network = deepcopy(model)
    for name, stage, index, layer in layers(network):
        if isinstance(layer, DampedBlock):
            stage[index] = Transition(branch_of(layer, name), nn.Identity())
    return network
