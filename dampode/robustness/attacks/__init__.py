"""Attacks on classifiers of pixels in [0, 1]: functions, and classes that hold their settings for `evaluate`."""

from dampode.robustness.attacks.apgd import APGD, TargetedAPGD
from dampode.robustness.attacks.auto_attack import AutoAttack
from dampode.robustness.attacks.fab import FAB, TargetedFAB
from dampode.robustness.attacks.gradient import fgsm, ifgsm, pgd, recentered_pgd
from dampode.robustness.attacks.settings import FGSM, IFGSM, PAPER, PGD, RecenteredPGD, Transfer, UniformNoise
from dampode.robustness.attacks.square import Square, square
from dampode.robustness.attacks.traits import Attack, AttackTraits
from dampode.robustness.attacks.uniform import uniform_noise

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "IFGSM",
    "PAPER",
    "PGD",
    "Attack",
    "AttackTraits",
    "AutoAttack",
    "RecenteredPGD",
    "Square",
    "TargetedAPGD",
    "TargetedFAB",
    "Transfer",
    "UniformNoise",
    "fgsm",
    "ifgsm",
    "pgd",
    "recentered_pgd",
    "square",
    "uniform_noise",
]
