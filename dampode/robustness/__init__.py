"""Robustness of any classifier of pixels in [0, 1]: noise, attacks and their measurement. Independent of damping."""

from dampode.robustness.attacks import (
    FGSM,
    IFGSM,
    PAPER,
    PGD,
    Attack,
    AttackTraits,
    RecenteredPGD,
    Square,
    Transfer,
    UniformNoise,
    fgsm,
    ifgsm,
    pgd,
    recentered_pgd,
    square,
    uniform_noise,
)
from dampode.robustness.classifier import accuracy
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.ensemble_gains import EnsembleGain, ensemble_gain
from dampode.robustness.evaluation import ATTACKS, evaluate
from dampode.robustness.loss_landscape import Landscape, landscape
from dampode.robustness.noise import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    CifarCFiles,
    DrawnNoise,
    ImageNetCFiles,
    NoiseSource,
    NormalizedPerFile,
    corrupt,
    load_cifar_c,
)
from dampode.robustness.report import Report

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "FGSM",
    "IFGSM",
    "PAPER",
    "PGD",
    "SEVERITIES",
    "Attack",
    "AttackTraits",
    "CifarCFiles",
    "DrawnNoise",
    "Ensemble",
    "EnsembleGain",
    "ImageNetCFiles",
    "Landscape",
    "NoiseSource",
    "NormalizedPerFile",
    "RecenteredPGD",
    "Report",
    "Square",
    "Transfer",
    "UniformNoise",
    "accuracy",
    "corrupt",
    "ensemble_gain",
    "evaluate",
    "fgsm",
    "ifgsm",
    "landscape",
    "load_cifar_c",
    "pgd",
    "recentered_pgd",
    "square",
    "uniform_noise",
]
