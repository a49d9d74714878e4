"""What is measured on one trained network: two robustness reports, the columns of Tables 1 to 3, λ_n, landscapes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from benchmarks.paper.plan.jobs import Job
from benchmarks.paper.plan.protocols import RADII, Protocol
from benchmarks.paper.plan.targets import FIGURE_2_IMAGES, FIGURES
from dampode import models
from dampode.block import DampedBlock
from dampode.data import ImageData, pixels
from dampode.models.image_parts import CIFAR_MEAN, CIFAR_STD
from dampode.robustness import (
    APGD,
    FGSM,
    PGD,
    DrawnNoise,
    Ensemble,
    NoiseSource,
    NormalizedPerFile,
    Report,
    UniformNoise,
    accuracy,
    evaluate,
    landscape,
)
from dampode.robustness.probes import PROBED_IMAGES

__all__ = [
    "ATTACKS",
    "COLUMNS",
    "NOISES",
    "Columns",
    "Reports",
    "coefficients",
    "columns",
    "depth_in_effect",
    "in_figure_2",
    "landscapes",
    "noise_source",
    "reports",
    "sound_report",
]

NOISES = ("impulse", "speckle", "gaussian", "shot")
SEVERITIES = (1, 2, 3, 4, 5)
ATTACKS = ("fgsm", "ifgsm", "pgd")
SOUND_ATTACKS = {
    "uniform noise": UniformNoise(),
    "FGSM": FGSM(),
    "PGD": PGD(restarts=5, keep="first"),
    "APGD-CE": APGD(),
}
"""Attacks whose steps scale with ε, which the paper's do not."""
CLEAN, CLEAN_ATTACKED = "acc", "acc attacked"
"""Clean accuracy on all test images, and on those that are attacked."""
COLUMNS = (CLEAN, CLEAN_ATTACKED, *NOISES, *(f"{attack} {radius}/255" for attack in ATTACKS for radius in RADII))
UNIFORM_NOISE = "uniform noise"
DEPTH_IMAGES = 500
"""Test images on which the effective depth is measured."""
LANDSCAPE_AXIS = tuple(k / 2 for k in range(-16, 17))
"""In 1/255; the paper does not say how far the axes of Figure 2 reach."""

Columns = dict[str, float | list[float]]
"""Column -> accuracy in [0, 1]; for a noise the accuracies at severities 1 to 5."""


class Reports(NamedTuple):
    """Noise on all test images, and attacks on the first of them."""

    noise: Report
    attacks: Report

    def to_json(self) -> dict[str, Any]:
        """Both as plain values, per-image results included."""
        return {name: json.loads(report.to_json()) for name, report in self._asdict().items()}


def reports(model: nn.Module, images: ImageData, job: Job, partial: Callable[[str], Path]) -> Reports:
    """Measure a network under its job's protocol. An interrupted measurement resumes from its partial files.

    Noise is drawn from seed 0, so that all networks meet the same noisy images. The random starts of PGD are drawn from
    the job's first seed. `evaluate` adds its sanity checks.

    Args:
        model: classifier of pixels; it is put into eval mode.
        images: its test set is used.
        job: its protocol gives the attacks and how noisy images are normalized, its scale how many images are attacked.
        partial: "noise" or "attacks" -> the partial file of that report.
    """
    x, y = pixels(images.x_test), images.y_test
    attacked = job.scale.attacked_images
    seed, batch_size = job.seeds[0], 2500 if x.device.type == "cuda" else 500
    model.eval()
    noise = evaluate(
        model,
        x,
        y,
        attacks={},
        noises=[f"{kind}_noise" for kind in NOISES],
        severities=SEVERITIES,
        noise=noise_source(DrawnNoise(x), job.protocol),
        seed=seed,
        batch_size=batch_size,
        partial=partial("noise"),
    )
    attacks = evaluate(
        model,
        x[:attacked],
        y[:attacked],
        eps=[radius / 255 for radius in job.scale.radii],
        attacks=job.scale.attacks(job.protocol),
        noises=(),
        seed=seed,
        batch_size=batch_size,
        probed_images=job.scale.probed_images or PROBED_IMAGES,
        partial=partial("attacks"),
    )
    return Reports(noise, attacks)


def sound_report(model: nn.Module, images: ImageData, job: Job, partial: Path) -> Report:
    """The same images and radii as the attacks of `reports`, under `SOUND_ATTACKS`.

    The paper's step of 2/255 is long beside a small ε, and makes a network look robust.
    """
    attacked = job.scale.attacked_images
    x, y = pixels(images.x_test)[:attacked], images.y_test[:attacked]
    return evaluate(
        model.eval(),
        x,
        y,
        eps=[radius / 255 for radius in job.scale.radii],
        attacks=SOUND_ATTACKS,
        noises=(),
        seed=job.seeds[0],
        batch_size=2500 if x.device.type == "cuda" else 500,
        partial=partial,
    )


def noise_source(drawn: DrawnNoise, protocol: Protocol) -> NoiseSource:
    """Noisy images as the networks see them under a protocol."""
    return NormalizedPerFile(drawn, CIFAR_MEAN, CIFAR_STD) if protocol.normalized_per_file else drawn


def columns(measured: Reports) -> Columns:
    """The columns of Tables 1 to 3, read from the reports."""
    found: Columns = {CLEAN: measured.noise.clean, CLEAN_ATTACKED: measured.attacks.clean}
    for kind in NOISES:
        found[kind] = [measured.noise.column(f"{kind}_noise", severity).accuracy for severity in SEVERITIES]
    for column in measured.attacks.columns:
        if column.group == "attack" and column.name != UNIFORM_NOISE:
            found[f"{column.name.lower()} {round(255 * column.strength)}/255"] = column.accuracy
    return found


def depth_in_effect(model: nn.Module, images: ImageData) -> dict[str, Any] | None:
    """The effective depth of a network, the shares of its blocks, and its accuracy without blocks.

    None for a network that cannot be folded: a gated network, a CNN, a ResNeXt, or an ensemble.
    """
    if not isinstance(model, models.PreResNet):
        return None
    x, y = pixels(images.x_test)[:DEPTH_IMAGES], images.y_test[:DEPTH_IMAGES]
    try:  # fold refuses a gated λ, and a λ of 1
        shares = models.block_shares(model, x)
    except (ValueError, TypeError):
        return None
    without = models.accuracy_without_blocks(model, x, y)
    return {
        "images": len(x),
        "accuracy": accuracy(model, x, y),
        "effective depth": models.effective_depth(model, x),
        "shares": [of_stage.tolist() for of_stage in shares],
        "accuracy without a block": [each.alone for each in without],
        "accuracy without later blocks": [each.later for each in without],
    }


def coefficients(model: nn.Module) -> list[float]:
    """The λ_n; none for a gated network, whose λ depends on the state, and none for an ensemble."""
    blocks = [module for module in model.modules() if isinstance(module, DampedBlock)]
    gated = any(block.func.damping.varies for block in blocks)
    return [] if gated or isinstance(model, Ensemble) else models.coefficients(model)


def in_figure_2(job: Job) -> bool:
    """Whether Figure 2 shows the job's network: seed 0, on the whole test set."""
    rows, dataset = FIGURES[2]
    return job.row.name in rows and job.dataset == dataset and job.seeds == (0,) and job.scale.test_images is None


def landscapes(model: nn.Module, images: ImageData) -> list[dict[str, Any]]:
    """Loss and prediction around each of `FIGURE_2_IMAGES`, as `Landscape.to_json` writes them."""
    noise, found = DrawnNoise(pixels(images.x_test)), []
    for kind, index in FIGURE_2_IMAGES:
        x, y = noise.block(f"{kind}_noise", 1, 0)[index : index + 1], images.y_test[index : index + 1]
        found.append(json.loads(landscape(model.eval(), x, y, along=LANDSCAPE_AXIS, across=LANDSCAPE_AXIS).to_json()))
    return found
