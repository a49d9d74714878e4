"""The paper's networks by name: each one composition of branch, damping, weight function and integrator."""

from collections.abc import Sequence

from torch import nn

from dampode.block import DampedBlock
from dampode.damping import Constant, Learned
from dampode.models.preresnet import CIFAR_MEAN, CIFAR_STD, PreResNet
from dampode.weighting import one_plus


def resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> PreResNet:
    """The pre-activation ResNet: λ = 0 in every flow, x + f(x). Eq. 3. Arguments as in `PreResNet`."""

    def flow(f: nn.Module) -> nn.Module:
        return DampedBlock(f, Constant(0.0))

    return PreResNet(depth, num_classes, flow, width=width, in_channels=in_channels, mean=mean, std=std)


def in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 1.0,
) -> PreResNet:
    """In-ResNet: (1 − λ_n) x + f(x), Eq. 13, λ_n = relu(anchor + raw_n), one a flow, U[low, high] at the start.

    The paper takes U[0.2, 0.25] at depth 110; weight decay pulls λ_n to the anchor, which is 1 in the authors' code.
    Arguments as in `PreResNet` and `Learned`.
    """

    def flow(f: nn.Module) -> nn.Module:
        return DampedBlock(f, Learned(low, high, anchor=anchor))

    return PreResNet(depth, num_classes, flow, width=width, in_channels=in_channels, mean=mean, std=std)


def lambda_in_resnet(
    depth: int = 110,
    num_classes: int = 10,
    *,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
    low: float = 0.2,
    high: float = 0.25,
    anchor: float = 0.0,
) -> PreResNet:
    """λ-In-ResNet: (1 − λ_n) x + (1 + λ_n) f(x), Eq. 15, f evaluated once. Arguments as in `in_resnet`.

    Weight decay pulls λ_n to 0, as in the authors' code.
    """

    def flow(f: nn.Module) -> nn.Module:
        return DampedBlock(f, Learned(low, high, anchor=anchor), rho=one_plus)

    return PreResNet(depth, num_classes, flow, width=width, in_channels=in_channels, mean=mean, std=std)


def cnn(
    depth: int = 110,
    num_classes: int = 10,
    *,
    width: int = 16,
    in_channels: int = 3,
    mean: Sequence[float] = CIFAR_MEAN,
    std: Sequence[float] = CIFAR_STD,
) -> PreResNet:
    """The non-residual CNN: λ = 1 in every flow, f(x), and stage entries without a shortcut. Sec. 3.3.

    Arguments as in `PreResNet`.
    """

    def flow(f: nn.Module) -> nn.Module:
        return DampedBlock(f, Constant(1.0))

    def entry(f: nn.Module, shortcut: nn.Module) -> nn.Module:
        return f

    return PreResNet(depth, num_classes, flow, entry, width=width, in_channels=in_channels, mean=mean, std=std)


def coefficients(model: nn.Module) -> list[float]:
    """The damping coefficients λ_n of a model, one a `DampedBlock` in order, after act.

    Args:
        model: a model whose damped blocks have one λ each.

    Raises:
        ValueError: a λ depends on the state or is not a single number.
    """
    values = []
    for name, block in model.named_modules():
        if not isinstance(block, DampedBlock):
            continue
        damping = block.func.damping
        if damping.depends_on_state:
            raise ValueError(f"coefficients needs λ that does not depend on the state; the λ of {name} is gated")
        parameter = next(block.parameters())
        lam = damping(parameter.detach().new_zeros(()))
        if lam.numel() != 1:
            raise ValueError(f"coefficients needs one λ a block; the λ of {name} has shape {tuple(lam.shape)}")
        values.append(lam.item())
    return values
