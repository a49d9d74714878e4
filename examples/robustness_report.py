"""A robustness report
===================

A ResNet and an In-ResNet, the damped ResNet of the paper, are trained on the digits from three seeds each. The
first network of each kind gets a full report, with the sanity checks that tell robustness from gradient masking.
The three networks of each kind are compared with their ensemble. Landscapes show the loss and the predictions
around images.

The script asserts that all required sanity checks of both reports pass, and that an ensemble is better than its
mean member by more than two standard errors, on clean, noisy and attacked images. It also asserts that the loss
rises along the FGSM direction far more than across it. It makes no claim about which network is more robust: the
networks are small and are trained for seconds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

from dampode import data, models, plots, robustness, training

SEEDS = 3
EPS = [8 / 255, 16 / 255]
ATTACKS = {
    "uniform noise": robustness.UniformNoise(),
    "FGSM": robustness.FGSM(),
    "IFGSM": robustness.IFGSM(alpha=4 / 255, steps=10, keep="first"),
    "PGD": robustness.PGD(alpha=4 / 255, steps=10, restarts=3, keep="first"),
}
ONE_STEP = {"FGSM": robustness.FGSM()}  # quick: without an iterated attack most sanity checks are not made
LINE = [8.0 * k for k in range(-4, 9)]  # in 1/255
GRID = [2.0 * k for k in range(-24, 25)]
FAR = 32.0


@dataclass(frozen=True)
class Args:
    """Train, measure and draw."""

    out: Path = Path("runs/robustness")
    """folder of the reports and figures"""
    epochs: int = 6
    """passes over the training images"""


# %%
# Networks and figures
# --------------------
#
# Three networks of each kind, and three figures of ``dampode.plots``.


def train(digits: data.ImageData, epochs: int) -> dict[str, list[nn.Module]]:
    mean, std = digits.statistics()
    networks: dict[str, list[nn.Module]] = {"ResNet": [], "In-ResNet": []}
    for seed in range(SEEDS):
        for (name, trained), build in zip(networks.items(), (models.resnet, models.in_resnet), strict=True):
            torch.manual_seed(seed)
            network = build(14, width=8, in_channels=1, mean=mean, std=std)
            recipe = training.Recipe(epochs=epochs, batch_size=64)
            training.fit(network, digits, recipe, seed=seed, label=f"{name}, seed {seed}")
            trained.append(network.eval())
    return networks


def pick(networks: dict[str, list[nn.Module]], x: Tensor, y: Tensor, correct: bool) -> int:
    """The first image that the first network of each kind classifies correctly, or that each classifies wrongly."""
    with torch.no_grad():
        found = torch.stack([trained[0](x).argmax(1) == y for trained in networks.values()])
    return int((found == correct).all(0).nonzero()[0])


def curves(reports: dict[str, robustness.Report], out: Path) -> None:
    """Accuracy against the severity of noise and against ε, one row per network."""
    figure, axes = plt.subplots(len(reports), 2, figsize=(10, 7.5), layout="constrained", sharey=True)
    for (left, right), (name, report) in zip(axes, reports.items(), strict=True):
        plots.accuracy_by_severity(left, report).set_title(f"{name}: noise")
        plots.accuracy_by_radius(right, report).set_title(f"{name}: attacks")
    plots.save(figure, {name: json.loads(report.to_json()) for name, report in reports.items()}, out / "accuracy.png")


def landscapes(networks: dict[str, list[nn.Module]], x: Tensor, y: Tensor, out: Path) -> None:
    """Landscapes as in Fig. 2 around two noisy images, and the mean loss over all test images."""
    first = {name: trained[0] for name, trained in networks.items()}
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.5), layout="constrained")
    shown = {}
    for row, noise, correct in ((axes[0], "shot_noise", True), (axes[1], "speckle_noise", False)):
        noisy = robustness.corrupt(x, noise, 5, torch.Generator().manual_seed(0))
        n = pick(networks, noisy, y, correct)
        image = noisy[n : n + 1], y[n : n + 1]
        found = {name: robustness.landscape(net, *image, along=GRID, across=GRID) for name, net in first.items()}
        plots.loss_along_attack(row[0], found).set_title(f"image {n}, a {y[n]}, {noise.replace('_', ' ')}")
        for ax, (name, landscape) in zip(row[1:], found.items(), strict=True):
            plots.predictions_around(ax, landscape).set_title(f"{name}: predictions")
        shown[f"image {n}, {noise}"] = found
    plots.save(figure, shown, out / "landscapes.png")

    mean = {name: robustness.landscape(net, x, y, along=LINE, across=(0.0, FAR)) for name, net in first.items()}
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    plots.loss_along_attack(ax, mean).set_title(f"mean of {len(x)} clean test images")
    plots.save(figure, mean, out / "loss.png")
    for name, landscape in mean.items():
        start = landscape.loss[:, LINE.index(0), 0].mean()
        along, across = landscape.loss[:, LINE.index(FAR), 0].mean(), landscape.loss[:, LINE.index(0), 1].mean()
        print(f"{name}: loss {start:.3f}; {FAR:g}/255 along the FGSM direction {along:.3f}, across it {across:.3f}")
        assert along - start > 5 * abs(across - start)


# %%
# Train and measure
# -----------------
#
# ``evaluate`` returns a report. ``ensemble_gain`` compares the reports of members and ensemble.

args = tyro.cli(Args, description=__doc__)
digits = data.load("digits")
networks = train(digits, args.epochs)
x, y = data.pixels(digits.x_test), digits.y_test

reports, gains = {}, {}
for name, trained in networks.items():
    other = next(k for k in networks if k != name)
    transfer = {f"PGD on the {other}": robustness.Transfer(networks[other][0])}
    reports[name] = robustness.evaluate(trained[0], x, y, eps=EPS, attacks=ATTACKS | transfer)
    reports[name].save(args.out / name)
    print(f"\n## {name}\n\n{reports[name].markdown()}")
    assert reports[name].passed
    rest = [robustness.evaluate(member, x, y, eps=EPS, attacks=ONE_STEP) for member in trained[1:]]
    ensemble = robustness.evaluate(robustness.Ensemble(trained), x, y, eps=EPS, attacks=ONE_STEP)
    gains[name] = robustness.ensemble_gain([reports[name], *rest], ensemble)
    print(f"## {name}, ensemble of {SEEDS}\n\n{gains[name].markdown()}")
    assert all(row.gain > 2 * row.standard_error for row in gains[name].rows)

# %%
# Accuracy under noise and attacks
# --------------------------------
#
# Each point has a 95 % interval.

curves(reports, args.out)

# %%
# Ensembles
# ---------
#
# A bar is the accuracy of the ensemble minus the mean accuracy of its members.

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
plots.ensemble_gains(ax, gains)
plots.save(figure, gains, args.out / "ensembles.png")

# %%
# Landscapes
# ----------
#
# The plane is spanned by the FGSM direction and a direction across it.

landscapes(networks, x, y, args.out)
print("figures: " + ", ".join(str(path) for path in sorted(args.out.glob("*.png"))))
