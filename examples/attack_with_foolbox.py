"""Attack a network of dampode with foolbox and torchattacks, and compare with dampode's own attacks.

    pip install -e ".[test]" && pip install --no-deps torchattacks

torchattacks pins an old version of requests, which it never imports. The flag --no-deps keeps your version.

The network, an In-ResNet trained on the digits, needs no wrapper of its own: it takes pixels in [0, 1] and gives
logits. The script takes about ten seconds.

Claim, asserted below: FGSM, IFGSM, and PGD from the same start give the same images in dampode.robustness, foolbox and
torchattacks, to 1e-6, for at least 999 of 1,000 pixels. The others differ because in float32 a gradient near zero may
take either sign.
"""

from collections.abc import Callable
from dataclasses import dataclass

import foolbox
import torch
import torchattacks
import tyro

from dampode import data, models, robustness, training

EPS, ALPHA, STEPS = 24 / 255, 4 / 255, 10


@dataclass(frozen=True)
class Args:
    """Train a network and attack it."""

    epochs: int = 6
    """passes over the training images"""


def main(args: Args) -> None:
    digits = data.load("digits")
    mean, std = digits.statistics()
    torch.manual_seed(0)
    model = models.in_resnet(14, width=8, in_channels=1, mean=mean, std=std)
    training.fit(model, digits, training.Recipe(epochs=args.epochs, batch_size=64), label="in_resnet")
    model.eval()
    x, y = data.pixels(digits.x_test), digits.y_test

    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)

    def with_foolbox(attack: foolbox.Attack) -> Callable[[], torch.Tensor]:
        return lambda: attack(bounded, x, y, epsilons=EPS)[1]

    attacks = {
        "FGSM": (
            lambda: robustness.fgsm(model, x, y, EPS),
            with_foolbox(foolbox.attacks.LinfFastGradientAttack()),
            lambda: torchattacks.FGSM(model, EPS)(x, y),
        ),
        "IFGSM": (
            lambda: robustness.ifgsm(model, x, y, EPS, alpha=ALPHA, steps=STEPS, keep="last"),
            with_foolbox(foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=ALPHA, steps=STEPS, random_start=False)),
            lambda: torchattacks.BIM(model, EPS, ALPHA, STEPS)(x, y),
        ),
        "PGD": (
            lambda: robustness.pgd(model, x, y, EPS, alpha=ALPHA, steps=STEPS, keep="last"),
            with_foolbox(foolbox.attacks.LinfPGD(abs_stepsize=ALPHA, steps=STEPS)),
            lambda: torchattacks.PGD(model, EPS, ALPHA, STEPS)(x, y),
        ),
    }
    print(f"\nclean accuracy {100 * robustness.accuracy(model, x, y):.1f} %; under attack, ε = {255 * EPS:.0f}/255:\n")
    print("| attack | dampode | foolbox | torchattacks | largest difference of a pixel |")
    print("|---|---|---|---|---|")
    for name, attack in attacks.items():
        perturbed = []
        for library in attack:
            torch.manual_seed(0)  # all three draw PGD's start from torch's default generator
            perturbed.append(library())
        accuracies = " | ".join(f"{100 * robustness.accuracy(model, images, y):.1f}" for images in perturbed)
        difference = torch.stack([(perturbed[0] - images).abs() for images in perturbed[1:]])
        print(f"| {name} | {accuracies} | {difference.max():.1e} |")
        assert (difference > 1e-6).double().mean() < 1e-3


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
