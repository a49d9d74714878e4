"""Certified and empirical l2 robustness of contractive networks on CIFAR-10 for several λ, at an equal budget.

    python -m benchmarks.certified_accuracy --root DIR           hours
    python -m benchmarks.certified_accuracy --root DIR --small   3,000 images, 4 epochs

Each network is `models.contractive_resnet` with relu, trained by `training.fit` with the same margin in the logits. By
theory a constant λ with relu is a scale, so the same margin asks for a larger radius where λ is larger.

- Clean: accuracy on test images.
- Certified: share of images that are right and whose radius is at least ε.
- PGD: accuracy under PGD in the l2 norm at ε, on the first test images. It can not be below the certified share of the
  same images; the script stops if it is.
- Broken: images that PGD flips at a radius just below their own certified one. It must be 0.
- Slope: the largest singular value of the network's Jacobian among some images, beside the composed constant.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import command, provenance, write
from dampode import data, models
from dampode.robustness import PGD
from dampode.stability import certify, lipschitz
from dampode.training import MarginLoss, Recipe, fit

RADII = (36 / 255, 72 / 255)


@dataclass(frozen=True)
class Args:
    """What to train and attack."""

    root: Path
    """folder of CIFAR-10"""
    small: bool = False
    """3,000 training images, 4 epochs, width 16"""
    lams: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    """λ of the networks"""
    attacked: int = 200
    """test images that are attacked"""
    restarts: int = 10
    """restarts of PGD-100 at the certified radii"""
    seed: int = 0
    """seed of weights and training"""


def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, restarts: int) -> Tensor:
    """Which images are still right under PGD, (N,)."""
    moved = PGD(steps=steps, restarts=restarts, keep="first", norm="l2")(
        model, x, y, eps, torch.Generator().manual_seed(0), len(x)
    )
    with torch.no_grad():
        right: Tensor = model(moved).argmax(1) == y
    return right


def broken(model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, restarts: int) -> int:
    """Images that PGD-100 flips at the certified radius.

    The images are attacked in groups of 20 with similar radii, at the least radius of the group.
    """
    flips = 0
    sure = (radii > 0).nonzero()[:, 0]
    for chosen in sure[radii[sure].argsort()].split(20):
        right = attack(model, x[chosen], y[chosen], float(radii[chosen].min()), 100, restarts)
        flips += int((~right).sum())
    return flips


def measure(args: Args, images: data.ImageData, lam: float) -> dict[str, Any]:
    """Train and measure one network."""
    torch.manual_seed(args.seed)
    if args.small:
        model = models.contractive_resnet(lam=lam, width=16, blocks=4, dense=1, features=128)
    else:
        model = models.contractive_resnet(lam=lam)
    epochs = 4 if args.small else 40
    recipe = Recipe(epochs, 64, lr=0.02, weight_decay=0.0)
    begin = time.perf_counter()
    history = fit(model, images, recipe, seed=args.seed, label=f"λ = {lam}", loss=MarginLoss(0.1, 0.1))
    seconds = time.perf_counter() - begin
    model.eval()
    x, y = data.pixels(images.x_test), images.y_test
    radii = torch.cat([certify(model, a, b) for a, b in zip(x.split(100), y.split(100), strict=True)])
    few = slice(0, args.attacked)
    rows: dict[str, Any] = {}
    for eps in RADII:
        right = attack(model, x[few], y[few], eps, 40, 1)
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
    return {
        "lam": lam,
        "clean": float((radii > 0).double().mean()),
        "radii": rows,
        "broken": broken(model, x[few], y[few], radii[few], args.restarts),
        "attacked": min(args.attacked, len(x)),
        "slope": max(map(float, slopes)),
        "bound": math.prod(lipschitz(layer) for layer in model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train accuracy": history.accuracy[-1],
        "seconds": seconds,
    }


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
    rows = []
    for lam in args.lams:
        rows.append(measure(args, images, lam))
        print(rows[-1], flush=True)
    print(write("certified_accuracy", {**provenance(command(), args.seed), "small": args.small, "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(Args))
