"""What a result is made under: the protocol (paper's text or authors' code) and the scale. Never mixed."""

from dataclasses import dataclass

from dampode.data import Augmentation
from dampode.robustness import IFGSM, PGD, RecenteredPGD


@dataclass(frozen=True)
class Protocol:
    """The switches where the paper's text and the authors' public code part.

    Args:
        name: part of every result's name.
        augmentation: of the training images.
        anchor: the λ that weight decay pulls In-ResNet's coefficients to; λ-In-ResNet's is 0 in both.
        ifgsm, pgd: the iterated attacks: their step α, steps, the iterate kept, and the center of PGD's ball.
        normalized_per_file: whether noisy images are normalized by the mean and standard deviation of all images of
            their kind of noise; else by the training set's.
    """

    name: str
    augmentation: Augmentation
    anchor: float
    ifgsm: IFGSM
    pgd: PGD | RecenteredPGD
    normalized_per_file: bool


@dataclass(frozen=True)
class Scale:
    """How much of the paper's experiment is run; the depth is never cut.

    Args:
        name: part of every result's name.
        narrow: widths are divided by it.
        epochs: None for the recipe's own.
        train_images, test_images: a fixed random draw of this size; None for all.
        attacked_images: the first of the test images, for the attacks; None for all.
    """

    name: str
    narrow: int = 1
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    attacked_images: int | None = None


TEXT = Protocol(
    "text",
    Augmentation(pad=4),
    anchor=0.0,
    ifgsm=IFGSM(2 / 255, keep="last"),
    pgd=PGD(2 / 255, keep="last"),
    normalized_per_file=False,
)
CODE = Protocol(
    "code",
    Augmentation(pad=2, mode="reflect"),
    anchor=1.0,
    ifgsm=IFGSM(1 / 255, keep="last"),
    pgd=RecenteredPGD(1 / 255),
    normalized_per_file=True,
)
PROTOCOLS = {protocol.name: protocol for protocol in (TEXT, CODE)}

FULL = Scale("full", attacked_images=2_000)
SMALL = Scale("small", narrow=4, epochs=40, train_images=10_000, test_images=2_000, attacked_images=500)
SCALES = {scale.name: scale for scale in (FULL, SMALL)}
