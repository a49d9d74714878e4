"""Accuracy of a classifier on clean, noisy and attacked images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dampode._checks import require_positive_int
from dampode.robustness.attacks import fgsm
from dampode.robustness.noise import corrupt


@dataclass(frozen=True)
class Report:
    """Accuracies in [0, 1] over n images.

    Args:
        n: number of images.
        clean: accuracy on the images as they are.
        gaussian_noise: accuracy at severities 1 to 5.
        fgsm: accuracy at each radius, (ε, accuracy).
    """

    n: int
    clean: float
    gaussian_noise: tuple[float, ...]
    fgsm: tuple[tuple[float, float], ...]


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> float:
    """Share of images classified right, model in eval mode for the call.

    Args:
        model: classifier of pixels.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images a forward pass.
    """
    require_positive_int(batch_size, "batch_size")
    was_training = model.training
    model.eval()
    with torch.no_grad():
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        right = sum((model(images).argmax(1) == labels).sum() for images, labels in batches)
    model.train(was_training)
    return float(right) / len(x)


def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: Sequence[float], seed: int = 0, batch_size: int = 500
) -> Report:
    """Measure clean accuracy, Gaussian noise at five severities, and FGSM at each ε.

    Args:
        model: classifier of pixels; its mode and its parameters' gradients are as before afterwards.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radii of FGSM, >= 0.
        seed: seed of the noise, so that models meet the same draws.
        batch_size: images a forward pass.

    Raises:
        ValueError: pixels outside [0, 1], or a negative radius.
    """
    was_training = model.training
    model.eval()
    noisy = []
    for severity in range(1, 6):
        generator = torch.Generator(x.device).manual_seed(seed + severity)
        noisy.append(accuracy(model, corrupt(x, "gaussian_noise", severity, generator), y, batch_size))
    attacked = []
    for radius in eps:
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        adversarial = torch.cat([fgsm(model, images, labels, radius) for images, labels in batches])
        attacked.append((float(radius), accuracy(model, adversarial, y, batch_size)))
    report = Report(len(x), accuracy(model, x, y, batch_size), tuple(noisy), tuple(attacked))
    model.train(was_training)
    return report
