"""Accuracy on scikit-learn's digits: a network with one equilibrium block beside In-ResNet of the same size.

    python -m benchmarks.equilibrium_digits   minutes

Both are trained by `training.fit` for as many epochs. In-ResNet has depth 8. The other network is a convolution with
stride 2, an equilibrium block with two convolutions and a learned λ, and a linear classifier.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import command, provenance, write
from dampode import EquilibriumBlock, data, models
from dampode.damping import Learned
from dampode.integrators import SteadyState
from dampode.models.image_parts import Normalize
from dampode.training import Recipe, fit

MEAN, STD = (0.3,), (0.37,)
LEARNING_RATES = {"in_resnet": 0.1, "equilibrium": 0.05}


@dataclass(frozen=True)
class Args:
    """How much to train."""

    seeds: tuple[int, ...] = (0, 1)
    """seeds of weights and training"""
    epochs: int = 8
    """epochs of both networks"""


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


def measure(name: str, model: nn.Module, seed: int, epochs: int) -> dict[str, Any]:
    """Train a network and measure its accuracy, and the searches on the test images."""
    images = data.load("digits")
    fit(model, images, Recipe(epochs=epochs, batch_size=64, lr=LEARNING_RATES[name]), seed=seed, label=name)
    model.eval()
    x, y = data.pixels(images.x_test), images.y_test
    row: dict[str, Any] = {"network": name, "seed": seed, "parameters": sum(p.numel() for p in model.parameters())}
    with torch.no_grad():
        row["accuracy"] = float((model(x).argmax(1) == y).double().mean())
        if isinstance(model, nn.Sequential):
            block = model[3]
            assert isinstance(block, EquilibriumBlock)
            found = block.equilibria(model[:3](x))
            row["calls"] = float(found.nfe.double().mean())
            row["unconverged"] = sum(status.name != "SUCCESS" for status in found.status)
    return row


def main(args: Args) -> None:
    """Train, measure, print and record."""
    rows = []
    for seed in args.seeds:
        for name in LEARNING_RATES:
            torch.manual_seed(seed)
            if name == "in_resnet":
                model: nn.Module = models.in_resnet(8, 10, width=8, in_channels=1, mean=MEAN, std=STD)
            else:
                model = equilibrium()
            rows.append(measure(name, model, seed, args.epochs))
            print(rows[-1], flush=True)
    means = {name: statistics.mean(r["accuracy"] for r in rows if r["network"] == name) for name in LEARNING_RATES}
    print(write("equilibrium_digits", {**provenance(command(), args.seeds[0]), "rows": rows, "means": means}))


if __name__ == "__main__":
    main(tyro.cli(Args))
