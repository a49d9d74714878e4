"""Robust accuracy under APGD, targeted APGD, targeted FAB and Square beside that of torchattacks, at the same settings.

Each attack runs alone on the same images, once per seed with each library. The official code of AutoAttack is on no
package index; where it can be imported as `autoattack`, it is measured too. Numbers are images that stay correct, so
the unit of the table is one image. Two networks are attacked: a ResNet-20 trained as usual, and one trained on attacked
images. A row is written as soon as it is measured, and a row that is in the file already is not measured again. With
--quick, few images are attacked in few steps, and nothing is written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torchattacks
import tyro
from torch import Tensor, nn

from benchmarks.common import record
from benchmarks.common.attacked_networks import NETWORKS
from dampode import data, models
from dampode.robustness import APGD, Attack, Square, TargetedAPGD, TargetedFAB
from dampode.robustness.classifier import correct

SCHEDULED = 10_000
"""Queries in which the squares of the official code reach their smallest size."""
CLASSES = 10
NAMES = {"linf": "Linf", "l2": "L2"}
"""The norms' names in the other libraries."""
Perturb = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Args:
    """Compare robust accuracies."""

    root: Path = Path("data")
    """folder of the CIFAR files"""
    train_images: int = 10_000
    """number of training images, drawn at random"""
    images: int = 1_000
    """number of test images"""
    eps: tuple[float, float] = (3, 12)
    """radius for each network, in 1/255"""
    norm: Literal["linf", "l2"] = "linf"
    """norm of the radius"""
    steps: int = 100
    """iterations of APGD and FAB"""
    queries: int = 500
    """forward passes per image of Square"""
    seeds: int = 1
    """runs of each attack, with seeds 0, 1, ..."""
    batch: int = 100
    """images per forward pass"""
    attacks: tuple[Literal["APGD-CE", "APGD-T", "FAB-T", "Square"], ...] = ("APGD-CE", "APGD-T", "FAB-T", "Square")
    """attacks to compare"""
    checkpoints: Path | None = None
    """folder that keeps the trained networks; by default they are trained anew"""
    quick: bool = False
    """attack few images in few steps, and write nothing"""


def ours(args: Args) -> dict[str, Attack]:
    """The attacks of dampode, by name."""
    return {
        "APGD-CE": APGD("ce", args.steps, norm=args.norm),
        "APGD-T": TargetedAPGD(steps=args.steps, norm=args.norm),
        "FAB-T": TargetedFAB(steps=args.steps, norm=args.norm),
        "Square": Square(args.queries, SCHEDULED, args.norm),
    }


def of_torchattacks(model: nn.Module, eps: float, seed: int, args: Args) -> Mapping[str, Perturb]:
    """The same attacks of torchattacks."""
    settings: dict[str, Any] = {"norm": NAMES[args.norm], "eps": eps, "n_restarts": 1, "seed": seed}
    return {
        "APGD-CE": torchattacks.APGD(model, steps=args.steps, loss="ce", **settings),
        "APGD-T": torchattacks.APGDT(model, steps=args.steps, n_classes=CLASSES, **settings),
        "FAB-T": torchattacks.FAB(model, steps=args.steps, multi_targeted=True, n_classes=CLASSES, **settings),
        "Square": torchattacks.Square(model, n_queries=args.queries, resc_schedule=False, **settings),
    }


def of_official_code(model: nn.Module, eps: float, seed: int, args: Args) -> Mapping[str, Perturb]:
    """The same attacks of the official code, where it is installed."""
    if find_spec("autoattack") is None or find_spec("autoattack.autopgd_base") is None:  # another package of this name
        return {}
    pgd, fab, square = (import_module(f"autoattack.{name}") for name in ("autopgd_base", "fab_pt", "square"))
    settings: dict[str, Any] = {"norm": NAMES[args.norm], "eps": eps, "device": "cpu", "seed": seed}
    return {
        "APGD-CE": pgd.APGDAttack(model, n_iter=args.steps, loss="ce", **settings).perturb,
        "APGD-T": pgd.APGDAttack_targeted(model, n_iter=args.steps, **settings).perturb,
        "FAB-T": fab.FABAttack_PT(model, n_iter=args.steps, targeted=True, **settings).perturb,
        "Square": square.SquareAttack(model, n_queries=args.queries, resc_schedule=False, **settings).perturb,
    }


def measure(attack: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, args: Args) -> dict[str, list[int]]:
    """The number of images that stay correct under an attack, by library and for each seed."""
    counts: dict[str, list[int]] = {}
    for seed in range(args.seeds):
        generator = torch.Generator().manual_seed(seed)
        perturbed = {"dampode": ours(args)[attack](model, x, y, eps, generator, args.batch)}
        for library, attacks in (
            ("torchattacks", of_torchattacks(model, eps, seed, args)),
            ("official", of_official_code(model, eps, seed, args)),
        ):
            if attacks:
                parts = zip(x.split(args.batch), y.split(args.batch), strict=True)
                perturbed[library] = torch.cat([attacks[attack](*part).detach() for part in parts])
        for library, moved in perturbed.items():
            counts.setdefault(library, []).append(int(correct(model, moved, y).sum()))
    return counts


def network(name: str, images: data.ImageData, folder: Path | None) -> nn.Module:
    """A trained network, read from its file if there is one."""
    path = None if folder is None else folder / f"{name.replace(', ', '-').replace(' ', '-')}.safetensors"
    if path is not None and path.exists():
        model = models.resnet(20, images.num_classes, width=8).eval()
        models.load(model, path)
        return model
    trained = NETWORKS[name](images, 0)
    if path is not None:
        models.save(trained, path)
    return trained


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows that a file of results holds."""
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return rows


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, train_images=500, images=30, steps=10, queries=30, seeds=1)
    images = data.load("cifar10", root=args.root).subset(train=args.train_images)
    x, y = data.pixels(images.x_test[: args.images]), images.y_test[: args.images]
    trained = {name: network(name, images, args.checkpoints) for name in NETWORKS}
    name = f"attack_agreement_{args.norm}_{args.images}"
    for attack in args.attacks:
        for (network_name, model), radius in zip(trained.items(), args.eps, strict=True):
            path = record.RESULTS / f"{name}.json"
            settings = {"network": network_name, "norm": args.norm, "eps_255": radius, "attack": attack}
            settings |= {"queries": args.queries} if attack == "Square" else {"steps": args.steps}
            settings |= {"seeds": args.seeds, "images": args.images}
            if any(settings.items() <= row.items() for row in rows_of(path)) and not args.quick:
                continue
            clean = int(correct(model, x, y).sum())
            row = {**settings, "clean": clean, **measure(attack, model, x, y, radius / 255, args)}
            print(row, flush=True)
            if not args.quick:
                payload = {
                    **record.provenance(record.command(), 0),
                    "rivals": {"torchattacks": version("torchattacks")},
                }
                record.write(name, {**payload, "rows": [*rows_of(path), row]})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
