"""The robustness of a model of timm
=================================

``dampode.robustness`` measures any classifier of pixels. Here it is a small ConvNeXt of timm, trained on the
digits, under AutoAttack and PGD. timm's models expect normalized images, so the normalization becomes the first
layer. Nothing is downloaded.

The script asserts that the report passes the sanity checks, and that the worst case under AutoAttack is never above
the accuracy under PGD, in L∞ and in L2.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import timm
import torch
import torch.nn.functional as F
import tyro
from torch import nn
from torchvision.transforms import Normalize

from dampode import data, plots, robustness


@dataclass(frozen=True)
class Args:
    """Train and measure."""

    out: Path = Path("runs/timm")
    """folder of the report"""
    epochs: int = 8
    """passes over the training images"""
    images: int = 100
    """number of test images"""


# %%
# The model
# ---------
#
# Its input is pixels in [0, 1], and its output is logits.


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


args = tyro.cli(Args, description=__doc__)
torch.manual_seed(0)
digits = data.load("digits").subset(test=args.images)
model = build(digits)
train(model.train(), data.pixels(digits.x_train), digits.y_train, args.epochs)

# %%
# The report
# ----------
#
# AutoAttack is shortened here. Its defaults are 100 steps and 5,000 queries.

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

# %%
# Accuracy against the radius in L∞, with 95 % intervals.

figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
plots.accuracy_by_radius(ax, report)
figure.savefig(args.out / "radii.png", dpi=150)
