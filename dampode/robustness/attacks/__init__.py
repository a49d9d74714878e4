"""Attacks on classifiers of pixels in [0, 1]: functions, and classes that hold their settings for `evaluate`."""

from dampode.robustness.attacks.gradient import fgsm, ifgsm, pgd, recentered_pgd
from dampode.robustness.attacks.search import square, uniform_noise
from dampode.robustness.attacks.settings import FGSM, IFGSM, PAPER, PGD, RecenteredPGD, Square, Transfer, UniformNoise
from dampode.robustness.attacks.traits import Attack, AttackTraits

__all__ = [
    "FGSM",
    "IFGSM",
    "PAPER",
    "PGD",
    "Attack",
    "AttackTraits",
    "RecenteredPGD",
    "Square",
    "Transfer",
    "UniformNoise",
    "fgsm",
    "ifgsm",
    "pgd",
    "recentered_pgd",
    "square",
    "uniform_noise",
]
