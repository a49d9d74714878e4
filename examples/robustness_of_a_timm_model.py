"""Measure any classifier of pixels: a small ConvNeXt of timm, trained on the digits, under AutoAttack and PGD.

timm's models expect normalized images. The normalization becomes the first layer, so that the classifier takes pixels
in [0, 1], as every function of dampode.robustness does. Nothing is downloaded.

Claims, each asserted below:

- The classifier is measured as any other, and its report passes the sanity checks.
- The worst case under AutoAttack is never above the accuracy under PGD, in L∞ and in L2.
"""

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torchvision.transforms import Normalize

from dampode import data, robustness


@dataclass(frozen=True)
class Args:
    """Train and measure."""

    out: Path = Path("runs/timm")
    """folder of the report"""
    epochs: int = 8
    """passes over the training images"""
    images: int = 100
    """number of test images"""


def build(digits: data.ImageData) -> nn.Module:
    mean, std = digits.statistics()
    network = timm.models.ConvNeXt(in_chans=1, num_classes=10, depths=(1, 1, 1, 1), dims=(16, 16, 32, 32), patch_size=1)
    return nn.Sequential(Normalize(mean, std), network)


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()


def main(args: Args) -> None:
    torch.manual_seed(0)
    digits = data.load("digits").subset(test=args.images)
    model = build(digits)
    train(model.train(), data.pixels(digits.x_train), digits.y_train, args.epochs)
    attacks = {
        "PGD": robustness.PGD(keep="first"),
        "AutoAttack": robustness.AutoAttack(steps=10, queries=50),
        "AutoAttack in L2": robustness.AutoAttack("l2", steps=10, queries=50),
    }
    radii = [4 / 255, 8 / 255]
    x, y = data.pixels(digits.x_test), digits.y_test
    report = robustness.evaluate(model.eval(), x, y, eps={"linf": radii, "l2": [0.25]}, attacks=attacks)
    report.save(args.out)
    print(report.markdown())
    assert report.passed, report.markdown()
    for e in radii:
        assert report.robust_accuracy(e) <= report.column("PGD", e).accuracy
    assert report.robust_accuracy(0.25, "l2") <= report.clean


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
