"""Three networks side by side on scikit-learn's digits: clean accuracy, PGD in the l2 norm, and certified accuracy.

    python -m benchmarks.certified_digits   a minute

In-ResNet has depth 8 and no certificate. The equilibrium network is a `BoundedLinear`, an `EquilibriumBlock` of a
convex potential with λ = 1, and a `BoundedLinear`. The contractive one is `models.contractive_resnet`. All are trained
by `training.fit` for as many epochs, the two with a certificate with a margin.
"""

from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import nn

from benchmarks.common.record import command, provenance, write
from dampode import EquilibriumBlock, data, models
from dampode.contractive import BoundedLinear, DensePotential
from dampode.damping import Constant
from dampode.data import Augmentation
from dampode.integrators import SteadyState
from dampode.robustness import PGD
from dampode.stability import certify
from dampode.training import MarginLoss, Recipe, fit

RADII = (0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Args:
    """How much to train and attack."""

    epochs: int = 10
    """epochs of every network"""
    steps: int = 40
    """steps of PGD"""
    seed: int = 0
    """seed of weights and training"""


def networks() -> dict[str, nn.Module]:
    """The networks, untrained."""
    search = SteadyState(rtol=1e-5, atol=1e-6)
    equilibrium = EquilibriumBlock(DensePotential(64, 64), Constant(1.0), integrator=search)
    return {
        "In-ResNet": models.in_resnet(8, 10, width=8, in_channels=1, mean=(0.3,), std=(0.37,)),
        "equilibrium": nn.Sequential(nn.Flatten(), BoundedLinear(64, 64), equilibrium, BoundedLinear(64, 10)),
        "contractive": models.contractive_resnet(
            width=8, blocks=2, dense=1, features=64, size=(8, 8), in_channels=1, lam=0.1
        ),
    }


def measure(name: str, model: nn.Module, args: Args) -> dict[str, Any]:
    """Train a network, attack it and, if its constants are known, certify it."""
    images = data.load("digits")
    still = Augmentation(pad=0, flip=False)
    certified = isinstance(model, nn.Sequential)
    lr, decay, margin, temperature = (0.02, 0.0, 0.2, 0.1) if certified else (0.1, 1e-4, 0.0, 1.0)
    recipe = Recipe(args.epochs, 64, lr, weight_decay=decay, augmentation=still)
    fit(model, images, recipe, seed=args.seed, label=name, loss=MarginLoss(margin, temperature))
    model.eval()
    x, y = data.pixels(images.x_test), images.y_test
    radii = certify(model, x, y) if isinstance(model, nn.Sequential) else None
    with torch.no_grad():
        clean = float((model(x).argmax(1) == y).double().mean())
    rows = []
    for eps in RADII:
        moved = PGD(steps=args.steps, norm="l2")(model, x, y, eps, torch.Generator().manual_seed(0), len(x))
        with torch.no_grad():
            right = model(moved).argmax(1) == y
        if radii is not None and bool((radii >= eps).logical_and(~right).any()):
            raise AssertionError(f"PGD broke a certificate of {name} at ε = {eps}")
        share = None if radii is None else float((radii >= eps).double().mean())
        rows.append({"eps": eps, "pgd": float(right.double().mean()), "certified": share})
    parameters = sum(p.numel() for p in model.parameters())
    return {"network": name, "parameters": parameters, "clean": clean, "radii": rows}


def main(args: Args) -> None:
    """Train, measure, print and record."""
    torch.manual_seed(args.seed)
    rows = []
    for name, model in networks().items():
        rows.append(measure(name, model, args))
        print(rows[-1], flush=True)
    print(write("certified_digits", {**provenance(command(), args.seed), "rows": rows}))


if __name__ == "__main__":
    main(tyro.cli(Args))
