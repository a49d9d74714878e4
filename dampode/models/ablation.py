"""Four networks of one start, which tell what damping does from what its start does.

With batch norm on the state a frozen λ only sets branch gains (`dampode.models.fold`), so a damped network's behavior
may come from λ being trained, from the gains, from the start alone, or from none of them.
"""

from copy import deepcopy
from typing import NamedTuple

from torch import nn

from dampode.block import DampedBlock, Transition
from dampode.damping import Constant, Learned
from dampode.models.folding import fold
from dampode.models.preresnet import PreResNet, branch_of, layers


class FourArms(NamedTuple):
    """Four networks that share their initial weights and, where they have one, their initial λ_n."""

    learned: PreResNet
    """λ_n trained: the network given."""
    frozen: PreResNet
    """λ_n fixed at its start."""
    gains: PreResNet
    """A plain ResNet whose initial weights give it the same function as ``frozen``."""
    plain: PreResNet
    """The plain ResNet."""


def four_arms(model: PreResNet) -> FourArms:
    """The four arms out of a damped network at its start, such as ``in_resnet(110)``; the model itself is the first.

    Args:
        model: an untrained pre-activation network with learned λ.

    Returns:
        λ learned, λ frozen, gains in the initial weights of a plain ResNet, plain.

    Raises:
        ValueError, TypeError: the model has λ that `frozen` or `fold` does not take.
    """
    return FourArms(model, frozen(model), gains(model), plain(model))


def frozen(model: PreResNet) -> PreResNet:
    """A copy whose λ_n stay what they are now: `Learned` becomes `Constant`.

    Raises:
        ValueError: a λ depends on the state.
    """
    copy = deepcopy(model)
    for name, block in copy.named_modules():
        if not isinstance(block, DampedBlock):
            continue
        damping = block.func.damping
        if damping.depends_on_state:
            raise ValueError(f"frozen needs λ that does not depend on the state; the λ of {name} is gated")
        if isinstance(damping, Learned):
            block.func.damping = Constant(damping(damping.raw.detach()))
    return copy


def gains(model: PreResNet) -> PreResNet:
    """A plain ResNet that starts with the damped network's gains, ρ(λ_n) / s_{n+1}, in its branches' weights.

    The same function at the start as ``frozen(model)``, but every gain s^-1 also divides that branch's effective
    learning rate by s^-2. Batch norm's statistics start afresh.

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
