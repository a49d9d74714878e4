"""The columns of Tables 1-3, measured one at a time under a protocol."""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from benchmarks.paper.settings import Protocol
from dampode.data import ImageData, pixels
from dampode.models.image_parts import CIFAR_MEAN, CIFAR_STD
from dampode.robustness import FGSM, Attack, DrawnNoise, NoiseSource, NormalizedPerFile, accuracy
from dampode.robustness.classifier import eval_mode
from dampode.robustness.random_blocks import block_generator, blocks

NOISES = ("impulse", "speckle", "gaussian", "shot")
ATTACKS = ("fgsm", "ifgsm", "pgd")
RADII = (1, 2, 4)
"""In 1/255."""
KEYS = ("acc", "acc attacked", *NOISES, *(f"{attack} {radius}/255" for attack in ATTACKS for radius in RADII))

Measured = float | list[float]


def measure(
    model: nn.Module,
    images: ImageData,
    attacked: int | None,
    protocol: Protocol,
    seed: int,
    done: Collection[str] = (),
) -> Iterator[tuple[str, Measured]]:
    """Accuracies in [0, 1], each as soon as it is there.

    Noise is drawn once, alike for all networks; PGD's starts by the run's seed.

    Args:
        model: classifier of pixels.
        images: their test set is used.
        attacked: the attacks meet the first of the test images, this many; None for all.
        protocol: how noisy images are normalized, and the attacks.
        seed: of PGD's starts.
        done: keys that are not wanted again.

    Yields:
        A key of ``KEYS`` and its accuracy; for a noise the accuracies at severities 1 to 5. "acc attacked" is the
        clean accuracy on the images that the attacks meet.
    """
    x, y = pixels(images.x_test), images.y_test
    x_attacked, y_attacked = x[:attacked], y[:attacked]
    batch_size = 2500 if x.device.type == "cuda" else 500
    noise = noise_source(DrawnNoise(x), protocol)
    attacks: dict[str, Attack] = {"fgsm": FGSM(), "ifgsm": protocol.ifgsm, "pgd": protocol.pgd}
    with eval_mode(model):
        for key in (key for key in KEYS if key not in done):
            if key == "acc":
                yield key, accuracy(model, x, y, batch_size)
            elif key == "acc attacked":
                yield key, accuracy(model, x_attacked, y_attacked, batch_size)
            elif key in NOISES:
                files = [noise_file(noise, key, severity) for severity in range(1, 6)]
                yield key, [accuracy(model, noisy, y, batch_size) for noisy in files]
            else:
                name, radius = key.removesuffix("/255").split()
                draws = block_generator(x.device, seed, key)
                moved = attacks[name](model, x_attacked, y_attacked, int(radius) / 255, draws, batch_size)
                yield key, accuracy(model, moved, y_attacked, batch_size)


def noise_source(drawn: DrawnNoise, protocol: Protocol) -> NoiseSource:
    """Noisy images as the protocol has the networks see them."""
    return NormalizedPerFile(drawn, CIFAR_MEAN, CIFAR_STD) if protocol.normalized_per_file else drawn


def noise_file(source: NoiseSource, kind: str, severity: int) -> torch.Tensor:
    """All images under one noise and severity, (N, C, H, W)."""
    return torch.cat([source.block(f"{kind}_noise", severity, index) for index in range(len(blocks(source.n)))])
