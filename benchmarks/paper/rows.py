"""The rows of the paper's tables: a network, how it starts, and how it is trained; and which table needs which."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from string import digits
from typing import Any

from torch import nn

from benchmarks.paper.settings import Protocol, Scale
from dampode import models
from dampode.models import ablation
from dampode.training import Recipe

TARGETS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "targets.json").read_text(encoding="utf-8"))
"""Every number of Tables 1-14, as printed."""

RANGES = ((0.0, 0.1), (0.1, 0.2), (0.25, 0.3), (0.3, 0.4))
"""Tables 5 and 7: the ranges of λ at the start beside the usual U[0.2, 0.25]."""

SHORTENED = {f"resnet-110-short{share:g}": share for share in (0.15, 0.25, 0.5)}
"""Shares of the epochs after which a plain ResNet is about as accurate as damped ones are after all of them."""


@dataclass(frozen=True)
class Row:
    """A network of the paper, or of the experiment that it lacks.

    Args:
        name: as in targets.json, and part of a result's name.
        label: as in the tables.
        builder: of dampode.models.
        depth: None for ResNeXt-29, which has one depth.
        start: range of λ at the start; None for the builder's own.
        arm: what is made of the network at its start.
        decay_damping: whether weight decay acts on λ.
        share: of the epochs; the learning rate falls at the same shares of them.
    """

    name: str
    label: str
    builder: Callable[..., nn.Module]
    depth: int | None = 110
    start: tuple[float, float] | None = None
    arm: Callable[[Any], nn.Module] | None = None
    decay_damping: bool = True
    share: float = 1.0

    def settings(self, protocol: Protocol, scale: Scale) -> dict[str, float]:
        """The builder's arguments, beside the number of classes."""
        chosen: dict[str, float] = {"width": (64 if self.depth is None else 16) // scale.narrow}
        if self.depth is not None:
            chosen["depth"] = self.depth
        if self.start is not None:
            chosen["low"], chosen["high"] = self.start
        if self.builder in (models.in_resnet, models.in_resnext29):
            chosen["anchor"] = protocol.anchor
        return chosen

    def build(self, classes: int, protocol: Protocol, scale: Scale) -> nn.Module:
        """The network at its start."""
        network = self.builder(num_classes=classes, **self.settings(protocol, scale))
        return network if self.arm is None else self.arm(network)

    def recipe(self, dataset: str, protocol: Protocol, scale: Scale) -> Recipe:
        """How it is trained, Sec. 4.1."""
        recipe = Recipe.cifar100() if dataset == "cifar100" else Recipe.cifar10()
        if self.depth is None:
            recipe = Recipe.resnext()
        return replace(
            recipe,
            epochs=max(1, round(self.share * (scale.epochs or recipe.epochs))),
            decay_damping=self.decay_damping,
            augmentation=protocol.augmentation,
        )


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
        rows += [Row(f"{key}-{a:g}-{b:g}", f"{label} U[{a:.2f}, {b:.2f}]", builder, start=(a, b)) for a, b in RANGES]
        rows += [
            Row(f"{key}-nodecay", f"{label}, λ learned without decay", builder, decay_damping=False),
            Row(f"{key}-frozen", f"{label}, λ frozen at its start", builder, arm=ablation.frozen),
            Row(f"{key}-gains", f"ResNet-110, {label}'s gains in its initial weights", builder, arm=ablation.gains),
        ]
    rows += [
        Row(name, f"ResNet-110, {share:.0%} of the epochs", models.resnet, share=share)
        for name, share in SHORTENED.items()
    ]
    return rows


ROWS = {row.name: row for row in _rows()}

BASE = ("resnet-110", "in_resnet-110", "lambda_in_resnet-110")
ARMS = ("in_resnet-110", "in_resnet-110-nodecay", "in_resnet-110-frozen", "in_resnet-110-gains", "resnet-110")
"""λ learned, with decay and without; frozen; the gains alone; plain. Decay on λ means nothing to the last three."""
LAMBDA_ARMS = (*(f"lambda_{arm}" for arm in ARMS[:-1]), "resnet-110")
SHORT = (*SHORTENED, "resnet-110")
"""Does a network resist more than its accuracy says? Plain ones trained for less show what accuracy alone does."""

BESIDE = {"arms": ARMS, "lambda_arms": LAMBDA_ARMS, "short": SHORT}
"""The experiments that the paper lacks."""

FIGURES: dict[int, tuple[tuple[str, ...], str]] = {
    1: (("in_resnet-110", "in_resnet-164"), "cifar10"),
    2: (("resnet-110", "in_resnet-110"), "cifar10"),
    3: (BASE, "cifar10"),
    4: (("lambda_in_resnet-110", "lambda_in_resnet-164"), "cifar10"),
    5: (("in_resnet-110", "in_resnet-164"), "cifar100"),
    6: (("lambda_in_resnet-110", "lambda_in_resnet-164"), "cifar100"),
    7: (("resnet-164", "in_resnet-164", "lambda_in_resnet-164"), "cifar10"),
    8: ((*BASE, "resnet-164", "in_resnet-164", "lambda_in_resnet-164"), "cifar100"),
}
"""Which networks a figure shows; 1 and 4-6 are coefficients, 2 landscapes, 3, 7 and 8 the gains of ensembles."""

Need = tuple[str, str, bool]
"""A row's name, a data set, and whether it is the ensemble over the seeds."""


def needs(target: str) -> tuple[Need, ...]:
    """What a table ("table5"), a figure ("figure3") or an experiment beside the paper takes, in the order shown.

    Raises:
        ValueError: there is no such target.
    """
    if target in BESIDE:
        return tuple((name, "cifar10", False) for name in BESIDE[target])
    kind = target.rstrip(digits)
    number = int(target.removeprefix(kind) or 0)
    if kind == "table" and 1 <= number <= 14:
        of_table = (entry for entry in TARGETS if entry["table"] == number)
        return tuple(dict.fromkeys((e["model"], e["dataset"], e["ensemble"]) for e in of_table))
    if kind == "figure" and number in FIGURES:
        names, dataset = FIGURES[number]
        kinds = (False, True) if number in (3, 7, 8) else (False,)
        return tuple((name, dataset, ensemble) for ensemble in kinds for name in names)
    raise ValueError(
        f"the target must be table1 to table14, figure1 to figure8, {', '.join(BESIDE)} or next, got {target!r}"
    )


CORE: tuple[Need, ...] = tuple((name, "cifar10", False) for name in dict.fromkeys((*BASE, "cnn-110", *ARMS)))
"""What `next` runs first, seed by seed."""


def rest() -> tuple[Need, ...]:
    """What `next` runs after that, a network's seeds together: CIFAR-10, then CIFAR-100 and the ResNeXt."""
    tables = [need for number in (3, 5, 4, 7, 2, 6, 8) for need in needs(f"table{number}") if need not in CORE]
    unique = list(dict.fromkeys(tables))
    return tuple(sorted(unique, key=lambda need: need[1] != "cifar10" or ROWS[need[0]].depth is None))
