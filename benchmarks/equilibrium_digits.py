"""Accuracy on scikit-learn's digits: a network with one equilibrium block beside In-ResNet of the same size.

    python -m benchmarks.equilibrium_digits   minutes

Both are trained by `training.fit` for as many epochs. In-ResNet has depth 8. The other network is a convolution with
stride 2, an equilibrium block with two convolutions and a learned λ, and a linear classifier. The learning rate of each
is the best on a validation split, the last fifth of the training images; the test images take no part in the choice.
"""

import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import command, provenance, write
from dampode import EquilibriumBlock, data, models
from dampode.damping import Learned
from dampode.integrators import SteadyState
from dampode.models.image_parts import Normalize
from dampode.robustness import accuracy
from dampode.training import Recipe, fit

MEAN, STD = (0.3,), (0.37,)
NETWORKS = ("in_resnet", "equilibrium")


@dataclass(frozen=True)
class Args:
    """How much to train."""

    seeds: tuple[int, ...] = (0, 1)
    """seeds of weights and training"""
    epochs: int = 8
    """epochs of both networks"""
    rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    """learning rates to choose from, with the first seed"""


class Branch(nn.Module):
    """f(x, u) = relu(norm(u + conv(norm(relu(conv x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.inner, self.outer = nn.GroupNorm(4, channels), nn.GroupNorm(4, channels)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """f(x, u)."""
        return torch.relu(self.outer(u + self.second(self.inner(torch.relu(self.first(x))))))


def equilibrium(channels: int = 32) -> nn.Sequential:
    """The network with an equilibrium block."""
    search = SteadyState(rtol=1e-3, atol=1e-4, strict=False)
    return nn.Sequential(
        Normalize(MEAN, STD),
        nn.Conv2d(1, channels, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(channels),
        EquilibriumBlock(Branch(channels), Learned(1.0, 1.0), integrator=search),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 10),
    )


def network(name: str, seed: int) -> nn.Module:
    """A network, untrained."""
    torch.manual_seed(seed)
    if name == "in_resnet":
        return models.in_resnet(8, 10, width=8, in_channels=1, mean=MEAN, std=STD)
    return equilibrium()


def trained(name: str, images: data.ImageData, lr: float, seed: int, epochs: int) -> nn.Module:
    """A trained network, in eval mode."""
    model = network(name, seed)
    fit(model, images, Recipe(epochs=epochs, batch_size=64, lr=lr), seed=seed, label=f"{name}, learning rate {lr:g}")
    return model.eval()


def chosen_rate(name: str, images: data.ImageData, args: Args) -> tuple[float, dict[str, float]]:
    """The learning rate of the highest validation accuracy, the smallest among equals, and all accuracies."""
    held = len(images.x_train) // 5
    x, y = images.x_train, images.y_train
    split = replace(images, x_train=x[:-held], y_train=y[:-held], x_test=x[-held:], y_test=y[-held:])
    pixels = data.pixels(split.x_test)
    found = {
        lr: accuracy(trained(name, split, lr, args.seeds[0], args.epochs), pixels, split.y_test)
        for lr in sorted(args.rates)
    }
    return max(found, key=lambda lr: found[lr]), {f"{lr:g}": share for lr, share in found.items()}


def measure(name: str, images: data.ImageData, lr: float, seed: int, epochs: int) -> dict[str, Any]:
    """Train a network and measure its accuracy, and the searches on the test images."""
    model = trained(name, images, lr, seed, epochs)
    x, y = data.pixels(images.x_test), images.y_test
    row: dict[str, Any] = {"network": name, "seed": seed, "lr": lr, "accuracy": accuracy(model, x, y)}
    row["parameters"] = sum(p.numel() for p in model.parameters())
    if isinstance(model, nn.Sequential):
        block = model[3]
        assert isinstance(block, EquilibriumBlock)
        with torch.no_grad():
            found = block.equilibria(model[:3](x))
        row["calls"] = float(found.nfe.double().mean())
        row["unconverged"] = sum(status.name != "SUCCESS" for status in found.status)
    return row


def main(args: Args) -> None:
    """Choose, train, measure, print and record."""
    images, rows, validation = data.load("digits"), [], {}
    for name in NETWORKS:
        lr, validation[name] = chosen_rate(name, images, args)
        print(name, validation[name], flush=True)
        for seed in args.seeds:
            rows.append(measure(name, images, lr, seed, args.epochs))
            print(rows[-1], flush=True)
    means = {name: statistics.mean(r["accuracy"] for r in rows if r["network"] == name) for name in NETWORKS}
    payload = {"validation": validation, "rows": rows, "means": means}
    print(write("equilibrium_digits", {**provenance(command(), args.seeds[0]), **payload}))


if __name__ == "__main__":
    main(tyro.cli(Args))
