"""Accuracy of a classifier on clean, noisy and attacked images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dampode._checks import require_labels, require_nonnegative, require_positive_int
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module of it back into its own mode afterwards, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> float:
    """Share of images classified right, model in eval mode for the call.

    Args:
        model: classifier of pixels.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images a forward pass.

    Raises:
        ValueError: no images, images and labels differ in number, or a label is no class of the model.
        TypeError: labels are not int64.
    """
    require_positive_int(batch_size, "batch_size")
    require_labels(y, len(x))
    with evaluating(model), torch.no_grad():
        logits = torch.cat([model(images) for images in x.split(batch_size)])
    if int(y.max()) >= logits.shape[1]:
        raise ValueError(f"labels must lie in [0, {logits.shape[1]}), the model's classes, got {int(y.max())}")
    return (logits.argmax(1) == y).double().mean().item()


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
        ValueError: pixels outside [0, 1], a negative radius, or labels as in `accuracy`.
    """
    for radius in eps:
        require_nonnegative(radius, "eps")
    clean = accuracy(model, x, y, batch_size)
    noisy = []
    for severity in range(1, 6):
        generator = torch.Generator(x.device).manual_seed(seed + severity)
        noisy.append(accuracy(model, corrupt(x, "gaussian_noise", severity, generator), y, batch_size))
    attacked = []
    for radius in eps:
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        with evaluating(model):
            adversarial = torch.cat([fgsm(model, images, labels, radius) for images, labels in batches])
        attacked.append((float(radius), accuracy(model, adversarial, y, batch_size)))
    return Report(len(x), clean, tuple(noisy), tuple(attacked))
