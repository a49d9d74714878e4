"""The rows of the paper's tables: each is a network, its start, and how it is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from benchmarks.paper.plan.protocols import Protocol, Scale
from dampode import DampedBlock, models
from dampode.models import ablation
from dampode.training import Recipe

__all__ = [
    "ABLATION",
    "BASE",
    "FEWER_EPOCHS",
    "LAMBDA_ABLATION",
    "LAM_RANGES",
    "PLAIN_BY_EPOCHS",
    "ROWS",
    "SHALLOW",
    "Row",
]

LAM_RANGES = ((0.0, 0.1), (0.1, 0.2), (0.25, 0.3), (0.3, 0.4))
"""Tables 5 and 7: the ranges of λ at the start, besides the usual U[0.2, 0.25]."""

FEWER_EPOCHS = {f"resnet-110-short{share:g}": share for share in (0.15, 0.25, 0.5)}
"""Share of the epochs after which a plain ResNet is about as accurate as fully trained damped networks."""

SHALLOW_DEPTHS = (8, 14, 20, 32, 56)
"""Depths of the plain networks that show what robustness a shallow network has."""


@dataclass(frozen=True)
class Row:
    """A network of the paper, or of an experiment that the paper lacks.

    Args:
        name: its name in printed_numbers.json and in the names of results.
        label: its name in the tables.
        builder: of dampode.models.
        depth: None for ResNeXt-29, which has one depth.
        lam_range: range of λ at the start; None for the builder's own.
        ablation: turns the network at its start into the one that is trained; None to train it as it is.
        decay_damping: whether weight decay acts on λ.
        epoch_share: share of the epochs; the learning rate falls at the same shares of the training.
    """

    name: str
    label: str
    builder: Callable[..., nn.Module]
    depth: int | None = 110
    lam_range: tuple[float, float] | None = None
    ablation: Callable[[Any], nn.Module] | None = None
    decay_damping: bool = True
    epoch_share: float = 1.0

    def settings(self, protocol: Protocol, scale: Scale) -> dict[str, float]:
        """The builder's arguments, except the number of classes."""
        chosen: dict[str, float] = {"width": (64 if self.depth is None else 16) // scale.narrow}
        if self.depth is not None:
            chosen["depth"] = self.depth
        if self.lam_range is not None:
            chosen["low"], chosen["high"] = self.lam_range
        if self.builder in (models.in_resnet, models.in_resnext29):
            chosen["anchor"] = protocol.anchor
        return chosen

    def build(self, classes: int, protocol: Protocol, scale: Scale) -> nn.Module:
        """The network at its start."""
        network = self.builder(num_classes=classes, **self.settings(protocol, scale))
        if protocol.lambda_momentum is not None and self.builder in (
            models.lambda_in_resnet,
            models.lambda_in_resnext29,
        ):
            _set_branch_momentum(network, protocol.lambda_momentum)
        return network if self.ablation is None else self.ablation(network)

    def recipe(self, dataset: str, protocol: Protocol, scale: Scale) -> Recipe:
        """How the network is trained, Sec. 4.1."""
        recipe = Recipe.cifar100() if dataset == "cifar100" else Recipe.cifar10()
        if self.depth is None:
            recipe = Recipe.resnext()
        recipe = scale.recipe or recipe
        return replace(
            recipe,
            epochs=max(1, round(self.epoch_share * (scale.epochs or recipe.epochs))),
            decay_damping=self.decay_damping,
            augmentation=recipe.augmentation or protocol.augmentation,
        )


def _set_branch_momentum(network: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm in a damped branch."""
    for block in network.modules():
        if not isinstance(block, DampedBlock):
            continue
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = momentum


def _rows() -> list[Row]:
    families = {
        "ResNet": models.resnet,
        "In-ResNet": models.in_resnet,
        "λ-In-ResNet": models.lambda_in_resnet,
    }
    rows = [Row(f"{b.__name__}-{depth}", f"{n}-{depth}", b, depth) for depth in (110, 164) for n, b in families.items()]
    rows += [
        Row("resnext29", "ResNeXt", models.resnext29, None),
        Row("in_resnext29", "In-ResNeXt", models.in_resnext29, None),
        Row("lambda_in_resnext29", "λ-In-ResNeXt", models.lambda_in_resnext29, None),
        Row("in_resnet_sig-110", "In-ResNet-sig-110", models.in_resnet_sig),
        Row("in_resnet_gating-110", "In-ResNet-gating-110", models.in_resnet_gating),
        Row("in_resnet_gating_sig-110", "In-ResNet-gating-sig-110", models.in_resnet_gating_sig),
        Row("cnn-110", "CNN-110 (no shortcuts)", models.cnn),
    ]
    for name in ("In-ResNet", "λ-In-ResNet"):
        key, label, builder = f"{families[name].__name__}-110", f"{name}-110", families[name]
        rows += [
            Row(f"{key}-{low:g}-{high:g}", f"{label} U[{low:.2f}, {high:.2f}]", builder, lam_range=(low, high))
            for low, high in LAM_RANGES
        ]
        rows += [
            Row(f"{key}-nodecay", f"{label}, λ learned without decay", builder, decay_damping=False),
            Row(f"{key}-frozen", f"{label}, λ frozen at its start", builder, ablation=ablation.frozen),
            Row(
                f"{key}-gains", f"ResNet-110, {label}'s gains in its initial weights", builder, ablation=ablation.gains
            ),
        ]
    rows += [
        Row(name, f"ResNet-110, {share:.0%} of the epochs", models.resnet, epoch_share=share)
        for name, share in FEWER_EPOCHS.items()
    ]
    rows += [Row(f"resnet-{depth}", f"ResNet-{depth}", models.resnet, depth) for depth in SHALLOW_DEPTHS]
    return rows


ROWS = {row.name: row for row in _rows()}
"""Every row by name."""

BASE = ("resnet-110", "in_resnet-110", "lambda_in_resnet-110")
ABLATION = ("in_resnet-110", "in_resnet-110-nodecay", "in_resnet-110-frozen", "in_resnet-110-gains", "resnet-110")
"""λ learned with decay, λ learned without decay, λ frozen, the gains alone, plain: decay matters to the first alone."""
LAMBDA_ABLATION = (*(f"lambda_{row}" for row in ABLATION[:-1]), "resnet-110")
"""The same for λ-In-ResNet."""
PLAIN_BY_EPOCHS = (*FEWER_EPOCHS, "resnet-110")
"""Plain networks trained for 15 to 100 % of the epochs: they show what robustness comes with an accuracy."""
SHALLOW = tuple(f"resnet-{depth}" for depth in SHALLOW_DEPTHS)
"""Plain networks of less depth."""
