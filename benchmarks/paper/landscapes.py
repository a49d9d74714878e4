"""Figure 2: the loss and the predictions around two noisy images, kept with the results of the networks it shows."""

import json
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.paper.jobs import Job
from benchmarks.paper.rows import FIGURES, ROWS
from dampode import plots
from dampode.data import ImageData, pixels
from dampode.robustness import DrawnNoise, Landscape, landscape

IMAGES = (("shot", 2), ("speckle", 13))
"""Noise at severity 1, and the image's index. The paper's are the 3rd, a ship, and the 8th, which it calls a horse; the
8th image of the test set is a frog, so the first horse stands for it."""
AXIS = tuple(k / 2 for k in range(-16, 17))
"""In 1/255; the paper does not say how far its axes reach."""
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def shown(job: Job) -> bool:
    """Whether the figure shows a job's network: seed 0, on the whole test set."""
    names, dataset = FIGURES[2]
    return job.row.name in names and job.dataset == dataset and job.seeds == (0,) and job.scale.test_images is None


def around(model: nn.Module, images: ImageData) -> list[dict[str, Any]]:
    """The landscape around each of ``IMAGES``, as plain values."""
    noise, found = DrawnNoise(pixels(images.x_test)), []
    for kind, index in IMAGES:
        x, y = noise.block(f"{kind}_noise", 1, 0)[index : index + 1], images.y_test[index : index + 1]
        found.append(json.loads(landscape(model, x, y, along=AXIS, across=AXIS).to_json()))
    return found


def draw(networks: dict[str, list[dict[str, Any]]]) -> Figure:
    """The figure: a line an image, the losses of all networks, then each one's predictions.

    Args:
        networks: per row's name, what `around` gave.
    """
    size = 1 + len(networks)
    figure, axes = plt.subplots(len(IMAGES), size, figsize=(4.2 * size, 4 * len(IMAGES)), layout="constrained")
    for line, (kind, index) in enumerate(IMAGES):
        landscapes = {ROWS[name].label: _landscape(found[line]) for name, found in networks.items()}
        plots.loss_along_attack(axes[line, 0], landscapes)
        axes[line, 0].set_title(f"{kind} noise, test image {index + 1}")
        for ax, (label, of_network) in zip(axes[line, 1:], landscapes.items(), strict=True):
            plots.predictions_around(ax, of_network, CLASSES)
            ax.set_title(label)
    return figure


def _landscape(values: dict[str, Any]) -> Landscape:
    tensors = {name: torch.tensor(values[name]) for name in ("labels", "loss", "prediction")}
    return Landscape(tuple(values["along"]), tuple(values["across"]), **tensors)
