"""Why the counts of `benchmarks.attack_agreement` differ: the random start of APGD, and the positions of Square.

    python -m benchmarks.attack_agreement_causes --root DIR --checkpoints FOLDER

The official code of AutoAttack must be importable as `autoattack`.

- equal start: both codes run APGD-CE from the starts of the official code. If the counts and the images that stand are
  the same, the step lengths, checkpoints, momentum, projections and the choice of the best point are.
- seeds: APGD-CE from the starts of several seeds, for each code.
- Square without the last position: both codes with the same set of positions, for several seeds. The official code
  draws one position and one sign per channel for a whole batch in each query, ours draws them for each image.

A row is written as soon as it is measured, and a row that is in the file already is not measured again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import tyro
from torch import Tensor, nn

from benchmarks import attack_agreement
from benchmarks.attack_agreement import NAMES, SCHEDULED, network
from benchmarks.common import record
from benchmarks.common.attacked_networks import NETWORKS
from dampode import data, models, training
from dampode.robustness import APGD, Attack, Square
from dampode.robustness.attacks import apgd
from dampode.robustness.attacks.runs import Problem
from dampode.robustness.classifier import correct
from dampode.robustness.draws import ImageDraws

RADII = {"linf": (3, 16), "l2": (80, 510)}
"""For each network, in 1/255."""
Question = Literal["equal start", "seeds", "Square without the last position"]


@dataclass(frozen=True)
class Args:
    """Explain differences."""

    root: Path = Path("data")
    """folder of the CIFAR files"""
    checkpoints: Path | None = None
    """folder that keeps the trained networks; by default they are trained anew"""
    images: int = 1_000
    """number of test images"""
    seeds: int = 3
    """seeds of every code"""
    norms: tuple[Literal["linf", "l2"], ...] = ("linf", "l2")
    """norms"""
    networks: tuple[int, ...] = (0, 1)
    """0: trained as usual; 1: trained on attacked images"""
    questions: tuple[Question, ...] = ("equal start", "seeds", "Square without the last position")
    """what is measured"""


def standing(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    """Which images stay correct under an attack of dampode."""
    return correct(model, attack(model, x, y, eps, torch.Generator().manual_seed(seed), 100), y)


def standing_under(attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images stay correct under an attack of the official code."""
    parts = zip(x.split(100), y.split(100), strict=True)
    return correct(model, torch.cat([attack.perturb(*part).detach() for part in parts]), y)


def official(model: nn.Module, norm: str, eps: float, seed: int) -> Any:
    """APGD-CE of the official code."""
    attack = import_module("autoattack.autopgd_base").APGDAttack
    return attack(model, n_iter=100, loss="ce", norm=NAMES[norm], eps=eps, device="cpu", seed=seed)


def from_equal_starts(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int) -> dict[str, Any]:
    """The images that stand under both codes from the starts of one."""
    noise = torch.Generator().manual_seed(seed)
    offsets = 2 * torch.rand(x.shape, generator=noise) - 1 if norm == "linf" else torch.randn(x.shape, generator=noise)
    flat = offsets.flatten(1)
    offsets /= (flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1))[:, None, None, None]
    starts = (x + eps * offsets).clamp(0, 1)

    def given(problem: Problem) -> Tensor:  # each image finds its own start
        distance = torch.cdist(problem.x.flatten(1), x.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        return starts[distance.argmin(1)]

    attack = APGD("ce", 100, norm="linf" if norm == "linf" else "l2")
    with mock.patch.object(apgd, "random_start", given):
        ours = standing(attack, model, x, y, eps, seed)
    right = correct(model, x, y)
    theirs, code = torch.zeros_like(right), official(model, norm, eps, seed)
    code.init_hyperparam(x)
    for chosen in right.nonzero()[:, 0].split(100):
        _, accuracy, _, _ = code.attack_single_run(x[chosen], y[chosen], starts[chosen])
        theirs[chosen] = accuracy.bool()
    return {"dampode": [int(ours.sum())], "official": [int(theirs.sum())], "different": int((ours != theirs).sum())}


@contextmanager
def without_the_last_position() -> Iterator[None]:
    """Positions of windows as the official code draws them: one value too few."""
    drawn = ImageDraws.integers

    def fewer(self: ImageDraws, high: int, *shape: int) -> Tensor:
        return drawn(self, max(high - 1, 1), *shape)

    with mock.patch.object(ImageDraws, "integers", fewer):
        yield


def measure(question: str, model: nn.Module, x: Tensor, y: Tensor, norm: Any, eps: float, seeds: int) -> dict[str, Any]:
    """The answer to a question for one network and radius."""
    if question == "equal start":
        return from_equal_starts(model, x, y, norm, eps, 0)
    if question == "seeds":
        ours = [int(standing(APGD("ce", 100, norm=norm), model, x, y, eps, seed).sum()) for seed in range(seeds)]
        theirs = [int(standing_under(official(model, norm, eps, seed), model, x, y).sum()) for seed in range(seeds)]
        return {"dampode": ours, "official": theirs}
    square = import_module("autoattack.square").SquareAttack
    settings = {"n_queries": 500, "resc_schedule": False, "norm": NAMES[norm], "eps": eps, "device": "cpu"}
    with without_the_last_position():
        ours = [int(standing(Square(500, SCHEDULED, norm), model, x, y, eps, seed).sum()) for seed in range(seeds)]
    theirs = [int(standing_under(square(model, seed=seed, **settings), model, x, y).sum()) for seed in range(seeds)]
    return {"dampode": ours, "official": theirs}


def main(args: Args) -> None:
    """Measure, print and record."""
    images = data.load("cifar10", root=args.root).subset(train=10_000)
    x, y = data.pixels(images.x_test[: args.images]), images.y_test[: args.images]
    path = record.RESULTS / "attack_agreement_causes.json"
    for question in args.questions:
        for norm in args.norms:
            for number in args.networks:
                name, radius = list(NETWORKS)[number], RADII[norm][number]
                settings = {"question": question, "network": name, "norm": norm, "eps_255": radius, "n": args.images}
                known = attack_agreement.rows_of(path)
                if any(settings.items() <= row.items() for row in known):
                    continue
                model = models.fold_batch_norm(network(name, images, args.checkpoints))
                with training.Execution().layout(model, x.device):
                    row = settings | measure(question, model, x, y, norm, radius / 255, args.seeds)
                print(json.dumps(row), flush=True)
                record.write(path.stem, {**record.provenance(record.command(), 0), "rows": [*known, row]})


if __name__ == "__main__":
    main(tyro.cli(Args))
