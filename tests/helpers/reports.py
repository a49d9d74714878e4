"""Columns of a report, made by hand."""

from dataclasses import replace

import torch

from dampode.robustness import APGD, FGSM, IFGSM, PGD, RecenteredPGD, Square, UniformNoise
from dampode.robustness.results import Column, SanityCheck

TRAITS = {
    "uniform noise": UniformNoise.traits,
    "FGSM": FGSM().traits,
    "IFGSM": IFGSM.traits,
    "PGD": PGD().traits,
    "APGD": APGD().traits,
    "RecenteredPGD": RecenteredPGD.traits,
    "Square": Square().traits,
    "transfer": replace(PGD().traits, transferred=True),
}
PASSED = (SanityCheck("a check", True, ""),)


def column(name, strength, right, n=1000, group="attack", overshoot=0.0, settings=""):
    """The first ``right`` of n images are classified correctly. The name of an attack decides its traits."""
    return Column(group, name, strength, torch.arange(n) < right, overshoot, settings, TRAITS.get(name))
