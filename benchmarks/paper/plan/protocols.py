"""The protocol (the paper's text or the authors' code) and the scale of an experiment. Results never mix them."""

from collections.abc import Mapping
from dataclasses import dataclass

from dampode.data import Augmentation
from dampode.robustness import APGD, FGSM, IFGSM, PGD, Attack, RecenteredPGD, UniformNoise
from dampode.training import Recipe

__all__ = ["CODE", "FIT", "FULL", "PROTOCOLS", "RADII", "SCALES", "SMALL", "TEXT", "Protocol", "Scale", "Task"]

RADII = (1, 2, 4)
"""The paper's radii, in 1/255."""
SOUND = "APGD-CE"
"""The name of a scale's sound attack in reports."""


@dataclass(frozen=True)
class Protocol:
    """The settings in which the paper's text and the authors' public code differ.

    Args:
        name: part of every result's name.
        augmentation: of the training images.
        anchor: the λ that weight decay pulls In-ResNet's coefficients to; λ-In-ResNet's is 0 in both.
        ifgsm, pgd: the iterated attacks: step α, number of steps, the iterate that is kept, and the center of PGD's
            ball.
        normalized_per_file: True normalizes noisy images by the mean and standard deviation of all images of their
            kind of noise, False by those of the training set.
        lambda_momentum: momentum of batch norm in the damped branches of λ-In-ResNet and λ-In-ResNeXt; None keeps
            torch's 0.1.
    """

    name: str
    augmentation: Augmentation
    anchor: float
    ifgsm: IFGSM
    pgd: PGD | RecenteredPGD
    normalized_per_file: bool
    lambda_momentum: float | None = None

    @property
    def attacks(self) -> Mapping[str, Attack]:
        """The attacks that are measured, by name; uniform noise is the one that every attack must beat."""
        return {"uniform noise": UniformNoise(), "FGSM": FGSM(), "IFGSM": self.ifgsm, "PGD": self.pgd}


@dataclass(frozen=True)
class Task:
    """An easier problem on the same images.

    Args:
        classes: the classes that are told apart.
        side: the images are averaged over squares until they have this side.
    """

    classes: tuple[int, ...]
    side: int


@dataclass(frozen=True)
class Scale:
    """How much of the paper's experiment is run. The depth is never reduced.

    Args:
        name: part of every result's name.
        narrow: the widths are divided by this number.
        epochs: None for the recipe's own.
        train_images, test_images: size of a fixed random sample; None for all images.
        attacked_images: number of test images that are attacked, the first ones; None for all.
        task: None for the paper's.
        recipe: None for the paper's.
        radii: of the attacks, in 1/255.
        sound: an attack whose step is not fixed. It is measured in the same report as the protocol's FGSM and PGD, and
            IFGSM is left out. None measures the protocol's attacks, and sound attacks in a report of their own.
        probed_images: number of images on which the sanity checks repeat attacks; None for the usual number.
    """

    name: str
    narrow: int = 1
    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    attacked_images: int | None = None
    task: Task | None = None
    recipe: Recipe | None = None
    radii: tuple[int, ...] = RADII
    sound: APGD | None = None
    probed_images: int | None = None

    def attacks(self, protocol: Protocol) -> Mapping[str, Attack]:
        """The attacks of the main report, by name. The sanity checks examine the first iterated attack."""
        if self.sound is None:
            return protocol.attacks
        usual = {name: attack for name, attack in protocol.attacks.items() if name != "IFGSM"}
        return {SOUND: self.sound, **usual}


TEXT = Protocol(
    "text",
    Augmentation(pad=4),
    anchor=0.0,
    ifgsm=IFGSM(2 / 255, steps=20, keep="last"),
    pgd=PGD(2 / 255, steps=20, keep="last"),
    normalized_per_file=False,
)
CODE = Protocol(
    "code",
    Augmentation(pad=2, mode="reflect"),
    anchor=1.0,
    ifgsm=IFGSM(1 / 255, keep="last"),
    pgd=RecenteredPGD(1 / 255),
    normalized_per_file=True,
    # the code evaluates the branch twice per step; two updates by one batch with momentum 0.1 keep 0.9² = 0.81
    lambda_momentum=0.19,
)
PROTOCOLS = {protocol.name: protocol for protocol in (TEXT, CODE)}

FULL = Scale("full", attacked_images=2_000)
SMALL = Scale("small", narrow=4, epochs=40, train_images=10_000, test_images=2_000, attacked_images=500)
FIT = Scale(
    "fit",
    narrow=2,
    train_images=1_000,
    test_images=1_000,
    attacked_images=1_000,
    task=Task(classes=(1, 6), side=8),
    recipe=Recipe(
        epochs=24, batch_size=64, lr=0.02, milestones=(0.6, 0.85), augmentation=Augmentation(pad=0, flip=False)
    ),
    radii=(2,),
    sound=APGD(steps=20),
    probed_images=50,
)
"""The cheapest scale that we found at which ResNet-110 and In-ResNet-110 both learn their training images."""
SCALES = {scale.name: scale for scale in (FULL, SMALL, FIT)}
