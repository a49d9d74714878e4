"""Accuracy on CIFAR-10: an equilibrium block of dampode beside one of torchdeq, of the same parameters and budget.

    python -m benchmarks.equilibrium_cifar --root DIR   an hour on one core

Both networks are a convolution with stride 2, an equilibrium x = f(x, u) of the same f with two convolutions, and a
linear classifier. They start from the same weights. `training.fit` trains both for as many epochs on as many images.
In dampode the block is `EquilibriumBlock` with λ = ρ = 1 and `SteadyState`; in torchdeq 0.1.0 it is `get_deq` with
Anderson's method. Both find equilibria to the same relative residual and take the gradient of the implicit function
theorem. The learning rate of each is the best on a validation split of the training images, after fewer epochs.
Accuracy is on all test images. Calls of f are per batch of test images. A row that is in the file of results already is
not measured again.
"""

import importlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.equilibrium_digits import Branch
from dampode import EquilibriumBlock, data
from dampode.damping import Constant
from dampode.integrators import SteadyState
from dampode.models.image_parts import CIFAR_MEAN, CIFAR_STD, Normalize
from dampode.robustness import accuracy
from dampode.training import Recipe, fit

TOLERANCE, MOST_CALLS = 1e-2, 40
NETWORKS = ("dampode", "torchdeq")


@dataclass(frozen=True)
class Args:
    """How much to train."""

    root: Path = Path("data")
    """folder of the CIFAR files"""
    train_images: int = 10_000
    """number of training images, drawn at random"""
    epochs: int = 8
    """epochs of both networks"""
    channels: int = 32
    """channels of the equilibrium"""
    rates: tuple[float, ...] = (0.02, 0.05, 0.1)
    """learning rates to choose from"""
    choosing_epochs: int = 2
    """epochs of the choice of the learning rate, on four fifths of the training images"""
    seeds: tuple[int, ...] = (0,)
    """seeds of weights and training"""
    quick: bool = False
    """train on few images, and write nothing"""


class TorchDEQ(nn.Module):
    """The equilibrium x = f(x, u) by torchdeq."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f
        both = {f"{way}_{key}": value for way in "fb" for key, value in (("solver", "anderson"), ("stop_mode", "rel"))}
        settings = {"f_tol": TOLERANCE, "b_tol": TOLERANCE, "f_max_iter": MOST_CALLS, "b_max_iter": MOST_CALLS}
        deq: Any = importlib.import_module("torchdeq")
        self.deq = deq.get_deq(core="sliced", ift=True, **both, **settings)

    def forward(self, u: Tensor) -> Tensor:
        """x, (N, C, H, W)."""
        x: Tensor = self.deq(lambda x: self.f(x, u), torch.zeros_like(u))[0][-1]
        return x


def network(name: str, channels: int, seed: int) -> nn.Sequential:
    """A network with an equilibrium block; both kinds start from the same weights."""
    torch.manual_seed(seed)
    stem, f, classifier = (
        nn.Conv2d(3, channels, 3, padding=1, stride=2, bias=False),
        Branch(channels),
        nn.Linear(16 * channels, 10),
    )
    search = SteadyState(TOLERANCE, 1e-6, MOST_CALLS, gradient_rtol=TOLERANCE, strict=False)
    block = EquilibriumBlock(f, Constant(1.0), integrator=search) if name == "dampode" else TorchDEQ(f)
    head = nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), classifier
    return nn.Sequential(Normalize(CIFAR_MEAN, CIFAR_STD), stem, nn.BatchNorm2d(channels), block, *head)


def trained(name: str, images: data.ImageData, lr: float, epochs: int, seed: int, channels: int) -> nn.Sequential:
    """A trained network, in eval mode."""
    model = network(name, channels, seed)
    fit(model, images, Recipe(epochs, 64, lr), seed=seed, label=f"{name}, learning rate {lr:g}")
    return model.eval()


def chosen_rate(name: str, images: data.ImageData, args: Args) -> tuple[float, dict[str, float]]:
    """The learning rate of the highest accuracy on the last fifth of the training images, and all accuracies."""
    held = len(images.x_train) // 5
    split = replace(
        images,
        x_train=images.x_train[:-held],
        y_train=images.y_train[:-held],
        x_test=images.x_train[-held:],
        y_test=images.y_train[-held:],
    )
    x, y = data.pixels(split.x_test), split.y_test
    found = {
        lr: accuracy(trained(name, split, lr, args.choosing_epochs, args.seeds[0], args.channels), x, y)
        for lr in args.rates
    }
    return max(found, key=lambda lr: found[lr]), {f"{lr:g}": share for lr, share in found.items()}


def calls_of_f(model: nn.Sequential, x: Tensor) -> float:
    """Calls of f per batch of 500 images."""
    count = 0

    def counting(*_: object) -> None:
        nonlocal count
        count += 1

    (branch,) = (module for module in model.modules() if isinstance(module, Branch))
    hook = branch.register_forward_hook(counting)
    with torch.no_grad():
        parts = x.split(500)
        for part in parts:
            model(part)
    hook.remove()
    return count / len(parts)


def main(args: Args) -> None:
    """Train, measure, print and record."""
    if args.quick:
        args = replace(args, train_images=400, epochs=1, choosing_epochs=1, rates=args.rates[:1], channels=8)
    images = data.load("cifar10", root=args.root).subset(train=args.train_images, test=300 if args.quick else None)
    x, y = data.pixels(images.x_test), images.y_test
    path = RESULTS / "equilibrium_cifar.json"
    rows: list[dict[str, Any]] = []
    if path.exists() and not args.quick:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    for name in NETWORKS:
        settings = {
            "network": name,
            "train images": args.train_images,
            "epochs": args.epochs,
            "channels": args.channels,
        }
        left = [seed for seed in args.seeds if not any((settings | {"seed": seed}).items() <= r.items() for r in rows)]
        if not left:
            continue
        lr, validation = chosen_rate(name, images, args)
        for seed in left:
            begin = time.perf_counter()
            model = trained(name, images, lr, args.epochs, seed, args.channels)
            row = settings | {"seed": seed, "lr": lr, "validation": validation}
            row |= {"seconds": time.perf_counter() - begin, "parameters": sum(p.numel() for p in model.parameters())}
            rows.append(row | {"accuracy": accuracy(model, x, y), "calls": calls_of_f(model, x[:2000])})
            print(rows[-1], flush=True)
            if not args.quick:
                write(path.stem, {**provenance(command(), args.seeds[0]), "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
