"""Input that no attack can use is refused in words, whatever the attack."""

import pytest
import torch
from torch import nn

from dampode.robustness import (
    APGD,
    FAB,
    FGSM,
    IFGSM,
    PGD,
    AutoAttack,
    RecenteredPGD,
    Square,
    TargetedAPGD,
    TargetedFAB,
    Transfer,
    UniformNoise,
    evaluate,
)

ATTACKS = [
    FGSM(),
    FGSM("l2"),
    IFGSM(steps=2),
    PGD(steps=2),
    PGD(steps=2, norm="l2"),
    RecenteredPGD(steps=2),
    UniformNoise(),
    *(attack for norm in ("linf", "l2") for attack in (APGD(steps=2, norm=norm), APGD("dlr", 2, norm=norm))),
    *(attack(steps=2, norm=norm) for norm in ("linf", "l2") for attack in (TargetedAPGD, FAB, TargetedFAB)),
    Square(3),
    Square(3, norm="l2"),
    AutoAttack(steps=2, queries=3),
    AutoAttack("l2", steps=2, queries=3),
]


class Logits(nn.Module):
    """Five logits per image, with the first one replaced."""

    def __init__(self, first=None):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.first = nn.Linear(48, 5), first

    def forward(self, x):
        z = self.linear(x.flatten(1))
        return z if self.first is None else torch.cat([z[:, 1:], z[:, :1] * 0 + self.first], 1)


def images(n=12):
    torch.manual_seed(1)
    return torch.rand(n, 3, 4, 4), torch.arange(n) % 5


def ids(attack):
    return f"{type(attack).__name__}-{attack.traits.norm}-{getattr(attack, 'loss', '')}"


def refused(attack, words, model=None, x=None, y=None, eps=0.1):
    pixels, labels = images()
    model, x, y = model or Logits().eval(), pixels if x is None else x, labels if y is None else y
    with pytest.raises(ValueError, match=words):
        attack(model, x, y, eps, torch.Generator().manual_seed(0), 6)


@pytest.mark.parametrize("attack", ATTACKS, ids=ids)
def test_what_is_wrong_is_said(attack):
    x, y = images()
    if not isinstance(attack, UniformNoise):  # it calls no model and reads no labels
        refused(attack, "logits must be finite", Logits(float("nan")).eval())
        refused(attack, "logits must be finite", Logits(float("inf")).eval())
        refused(attack, r"labels must lie in \[0, 5\), the model's classes, got 7", y=y + 3)
        refused(attack, "labels", y=y - 1)
    refused(attack, r"pixels .* \[0, 1\]", x=255 * x)
    refused(attack, r"pixels .* \[0, 1\]", x=x - 0.5)
    refused(attack, "eps must be at least 0", eps=-0.1)
    refused(attack, "eps must be finite", eps=float("nan"))
    refused(attack, "eps must be at most .* divide 8-bit units by 255", eps=8.0)


@pytest.mark.parametrize("attack", ATTACKS, ids=ids)
def test_a_report_refuses_it_too(attack):
    x, y = images()
    settings = {"attacks": {"attack": attack}, "noises": ()}
    norm = attack.traits.norm
    for model, words in ((Logits(float("nan")), "logits must be finite"), (Constant(), "gives the same logits")):
        with pytest.raises(ValueError, match=words):
            evaluate(model.eval(), x, y, eps={norm: [0.1]}, **settings)
    for eps, words in ((0.0, "above 0"), (8.0, "at most")):
        with pytest.raises(ValueError, match=words):
            evaluate(Logits().eval(), x, y, eps={norm: [eps]}, **settings)


class Constant(nn.Module):
    """The same logits for every image."""

    def forward(self, x):
        return 0 * x.flatten(1)[:, :5] + torch.arange(5.0)


def test_a_transfer_refuses_a_bad_source():
    refused(Transfer(Logits(float("nan")).eval(), PGD(steps=2)), "logits must be finite")
