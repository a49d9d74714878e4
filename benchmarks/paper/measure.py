"""The columns of Tables 1-8, measured one at a time under a protocol."""

from collections.abc import Collection, Iterator

import torch
from settings import Protocol
from torch import Tensor, nn

from dampode.data import ImageData, pixels
from dampode.models.trunk import CIFAR_MEAN, CIFAR_STD
from dampode.robustness import accuracy, corrupt, fgsm, ifgsm, pgd
from dampode.robustness.evaluate import evaluating

NOISES = ("impulse", "speckle", "gaussian", "shot")
ATTACKS = ("fgsm", "ifgsm", "pgd")
RADII = (1, 2, 4)
"""In 1/255."""
STEPS = 20
KEYS = ("acc", "acc attacked", *NOISES, *(f"{attack} {radius}/255" for attack in ATTACKS for radius in RADII))

Measured = float | list[float]


def measure(
    model: nn.Module,
    images: ImageData,
    attacked: int | None,
    protocol: Protocol,
    seed: int,
    done: Collection[str] = (),
    batch_size: int = 500,
) -> Iterator[tuple[str, Measured]]:
    """Accuracies in [0, 1], each as soon as it is there.

    Noise is drawn once and for all networks alike; PGD's starts by the run's seed.

    Args:
        model: classifier of pixels.
        images: their test set is used.
        attacked: the attacks meet the first of the test images, this many; None for all.
        protocol: how noisy images are normalized, and how IFGSM and PGD step.
        seed: of PGD's starts.
        done: keys that are not wanted again.
        batch_size: images a forward pass.

    Yields:
        A key of ``KEYS`` and its accuracy; for a noise the accuracies at severities 1 to 5. "acc attacked" is the
        clean accuracy on the images that the attacks meet.
    """
    x, y = pixels(images.x_test), images.y_test
    x_attacked, y_attacked = x[:attacked], y[:attacked]
    with evaluating(model):
        for key in (key for key in KEYS if key not in done):
            if key == "acc":
                yield key, accuracy(model, x, y, batch_size)
            elif key == "acc attacked":
                yield key, accuracy(model, x_attacked, y_attacked, batch_size)
            elif key in NOISES:
                yield key, [accuracy(model, noisy, y, batch_size) for noisy in noise_file(x, key, protocol)]
            else:
                attack, radius = key.removesuffix("/255").split()
                generator = torch.Generator(x.device).manual_seed(seed)
                batches = zip(x_attacked.split(batch_size), y_attacked.split(batch_size), strict=True)
                adversarial = [perturb(attack, model, *b, int(radius), protocol, generator) for b in batches]
                yield key, accuracy(model, torch.cat(adversarial), y_attacked, batch_size)


def noise_file(x: Tensor, kind: str, protocol: Protocol) -> list[Tensor]:
    """Images under one kind of noise at severities 1 to 5, as CIFAR-C's files hold them; own draws."""
    severities = []
    for severity in range(1, 6):
        generator = torch.Generator(x.device).manual_seed(10 * NOISES.index(kind) + severity)
        severities.append(corrupt(x, f"{kind}_noise", severity, generator))
    if protocol.noise_statistics == "training set":
        return severities
    spread, mean = torch.std_mean(torch.cat(severities), (0, 2, 3), keepdim=True)
    std, center = (torch.tensor(c, device=x.device).view(1, -1, 1, 1) for c in (CIFAR_STD, CIFAR_MEAN))
    return [
        (noisy - mean) / spread * std + center for noisy in severities
    ]  # the model's own normalization undoes the last


def perturb(
    attack: str, model: nn.Module, x: Tensor, y: Tensor, radius: int, protocol: Protocol, generator: torch.Generator
) -> Tensor:
    """Adversarial images at radius/255, Eqs. 19 and 20."""
    eps = radius / 255
    if attack == "fgsm":
        return fgsm(model, x, y, eps)
    alpha, keep = protocol.alpha / 255, protocol.keep
    if attack == "ifgsm":
        return ifgsm(model, x, y, eps, alpha=alpha, steps=STEPS, keep=keep)
    if protocol.pgd_center == "image":
        return pgd(model, x, y, eps, alpha=alpha, steps=STEPS, keep=keep, generator=generator)
    delta = eps * (2 * torch.rand(x.shape, generator=generator, device=x.device) - 1)
    return ifgsm(model, (x + delta).clamp(0, 1), y, eps, alpha=alpha, steps=STEPS, keep=keep)
