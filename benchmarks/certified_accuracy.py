"""Certified and empirical l2 robustness of contractive networks on CIFAR-10 for several λ, at an equal budget.

    python -m benchmarks.certified_accuracy --root DIR           hours
    python -m benchmarks.certified_accuracy --root DIR --small   3,000 images, 4 epochs

Each network is `models.contractive_resnet` with relu, trained by `training.fit`. By theory a constant λ with relu is a
scale. There are two comparisons:

- --equal margin: the same margin in the logits. It asks for a larger radius where λ is larger.
- --equal radius: margin and temperature shrink like the Lipschitz constant, so every λ is asked for the same radius.
  The biases shrink like the states, so a step of SGD must change them less: the learning rate of a bias is multiplied
  by the square of its scale. Then the training at every λ is that at λ = 0 up to rounding.

Every row holds:

- Clean: accuracy on test images.
- Certified: share of images that are right and whose radius is at least ε.
- PGD: accuracy under PGD in the l2 norm at ε, on the first test images. It can not be below the certified share of the
  same images; the script stops if it is.
- Broken: images that PGD-100 with restarts, or AutoAttack with fewer steps, flips at a radius just below their own
  certified one. It must be 0.
- Slope: the largest singular value of the network's Jacobian among some images, beside the composed constant.

A row that is in the file of results already is not measured again. With --checkpoints, the trained networks and the
groups of images that were attacked already are kept too.
"""

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedBlock, data, models
from dampode._files import write_atomically
from dampode.contractive import BoundedLinear, ConvexPotential
from dampode.robustness import PGD, Attack, AutoAttack
from dampode.stability import certify, lipschitz
from dampode.training import MarginLoss, Recipe, fit

RADII = (36 / 255, 72 / 255)
MARGIN, TEMPERATURE = 0.1, 0.1
"""Of the loss, at λ = 0 or with --equal margin at every λ."""
GROUP = 50
"""Images of similar certified radii that are attacked together, at the least radius of the group."""


@dataclass(frozen=True)
class Args:
    """What to train and attack."""

    root: Path
    """folder of CIFAR-10"""
    small: bool = False
    """3,000 training images, 4 epochs, width 16"""
    equal: Literal["margin", "radius"] = "margin"
    """what every λ is asked for"""
    lams: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    """λ of the networks"""
    attacked: int = 200
    """test images that are attacked"""
    restarts: int = 10
    """restarts of PGD-100 at the certified radii"""
    steps: int = 20
    """steps of AutoAttack at the certified radii"""
    queries: int = 200
    """queries of its Square"""
    checkpoints: Path | None = None
    """folder of the trained networks and of the progress of the attacks at the certified radii"""
    seed: int = 0
    """seed of weights and training"""


def survivors(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Which images are still right under an attack, (N,)."""
    moved = attack(model, x, y, eps, torch.Generator().manual_seed(0), len(x))
    with torch.no_grad():
        right: Tensor = model(moved).argmax(1) == y
    return right


def broken(model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, args: Args, progress: Path | None) -> int:
    """Images that an attack flips at the certified radius."""
    attacks = (
        PGD(steps=100, restarts=args.restarts, keep="first", norm="l2"),
        AutoAttack(norm="l2", steps=args.steps, queries=args.queries),
    )
    done: dict[str, int] = json.loads(progress.read_text()) if progress is not None and progress.exists() else {}
    sure = (radii > 0).nonzero()[:, 0]
    for number, chosen in enumerate(sure[radii[sure].argsort()].split(GROUP)):
        if str(number) not in done:
            eps = float(radii[chosen].min())
            right = [survivors(attack, model, x[chosen], y[chosen], eps) for attack in attacks]
            done[str(number)] = int((~torch.stack(right).all(0)).sum())
            print(f"group {number}: {len(chosen)} images, radius {eps:.3f}, {done[str(number)]} broken", flush=True)
        if progress is not None:
            write_atomically(progress, lambda file: file.write(json.dumps(done).encode()))
    return sum(done.values())


def scales(model: nn.Sequential, lam: float) -> tuple[dict[nn.Parameter, float], float]:
    """The scale of every bias and of the logits, relative to the network at λ = 0 that is the same up to a factor."""
    state, inner = 1.0, models.contractive_norm(lam) / models.contractive_norm(0.0)
    found: dict[nn.Parameter, float] = {}
    for layer in model:
        for part in layer.modules():
            if isinstance(part, ConvexPotential):
                assert isinstance(part.bias, nn.Parameter)
                found[part.bias] = inner * state
            elif isinstance(part, BoundedLinear):
                found[part.bias] = state
        state *= math.exp(-lam) if isinstance(layer, DampedBlock) else 1.0
    return found, state


def loss_of(model: nn.Sequential, lam: float, equal: str) -> MarginLoss:
    """The loss. For an equal radius, the gradients of the biases get the square of their scales."""
    if equal == "margin":
        return MarginLoss(MARGIN, TEMPERATURE)
    biases, scale = scales(model, lam)
    for bias, size in biases.items():
        bias.register_hook(lambda g, factor=size**2: factor * g)
    return MarginLoss(scale * MARGIN, scale * TEMPERATURE)


def trained(args: Args, images: data.ImageData, lam: float) -> tuple[nn.Sequential, dict[str, float]]:
    """A network in eval mode, with its accuracy and seconds of training, from its file if there is one."""
    torch.manual_seed(args.seed)
    if args.small:
        model = models.contractive_resnet(lam=lam, width=16, blocks=4, dense=1, features=128)
    else:
        model = models.contractive_resnet(lam=lam)
    name = f"{'small' if args.small else 'whole'}-{args.equal}-{lam:g}-{args.seed}.pt"
    path = None if args.checkpoints is None else args.checkpoints / name
    if path is not None and path.exists():
        kept = torch.load(path)
        model.load_state_dict(kept["model"])
        return model.eval(), kept["training"]
    recipe = Recipe(4 if args.small else 40, 64, lr=0.02, weight_decay=0.0)
    begin = time.perf_counter()
    loss = loss_of(model, lam, args.equal)
    history = fit(model, images, recipe, seed=args.seed, label=f"λ = {lam}", loss=loss)
    training = {"train accuracy": history.accuracy[-1], "seconds": time.perf_counter() - begin}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.state_dict(), "training": training}, path)
    return model.eval(), training


def measure(args: Args, images: data.ImageData, lam: float) -> dict[str, Any]:
    """Train and measure one network."""
    model, training = trained(args, images, lam)
    x, y = data.pixels(images.x_test), images.y_test
    radii = torch.cat([certify(model, a, b) for a, b in zip(x.split(100), y.split(100), strict=True)])
    few = slice(0, args.attacked)
    rows: dict[str, Any] = {}
    for eps in RADII:
        right = survivors(PGD(steps=40, keep="first", norm="l2"), model, x[few], y[few], eps)
        if bool((radii[few] >= eps).logical_and(~right).any()):
            raise AssertionError(f"PGD broke a certificate at ε = {eps:g}")
        rows[f"{255 * eps:.0f}/255"] = {
            "certified": float((radii >= eps).double().mean()),
            "certified on the attacked": float((radii[few] >= eps).double().mean()),
            "pgd on the attacked": float(right.double().mean()),
        }
    slopes = [
        torch.linalg.matrix_norm(torch.autograd.functional.jacobian(lambda v: model(v[None])[0], v).flatten(1), 2)
        for v in x[:10]
    ]
    progress = None
    if args.checkpoints is not None:
        kind = f"{'small' if args.small else 'whole'}-{args.equal}-{lam:g}-{args.seed}-{args.attacked}"
        progress = args.checkpoints / f"{kind}-{args.restarts}-{args.steps}-{args.queries}.json"
    return {
        **settings(args, lam),
        "clean": float((radii > 0).double().mean()),
        "median radius": float(radii[radii > 0].median()),
        "radii": rows,
        "broken": broken(model, x[few], y[few], radii[few], args, progress),
        "slope": max(map(float, slopes)),
        "bound": math.prod(lipschitz(layer) for layer in model),
        "parameters": sum(p.numel() for p in model.parameters()),
        **training,
    }


def settings(args: Args, lam: float) -> dict[str, Any]:
    """What a row was measured at."""
    return {"lam": lam, **{name: getattr(args, name) for name in ("small", "attacked", "restarts", "steps", "queries")}}


def main(args: Args) -> None:
    """Train, measure, print and record."""
    images = data.load("cifar10", root=args.root)
    if args.small:
        images = replace(
            images,
            x_train=images.x_train[:3000],
            y_train=images.y_train[:3000],
            x_test=images.x_test[:1000],
            y_test=images.y_test[:1000],
        )
    name = "certified_accuracy" if args.equal == "margin" else "certified_accuracy_equal_radius"
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = {row["lam"]: row for row in kept if settings(args, row["lam"]).items() <= row.items()}
    for lam in args.lams:
        if lam not in rows:
            rows[lam] = measure(args, images, lam)
            write(name, {**provenance(command(), args.seed), "rows": [rows[lam] for lam in sorted(rows)]})
        print(rows[lam], flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
