"""Robustness of any classifier on pixels in [0, 1]: noise, attacks, measurement. Knows nothing of damping."""

from dampode.robustness.attacks.gradient import fgsm, ifgsm, pgd, recentered_pgd
from dampode.robustness.attacks.search import square, uniform_noise
from dampode.robustness.attacks.settings import FGSM, IFGSM, PGD, Attack, RecenteredPGD, Square, Transfer, UniformNoise
from dampode.robustness.classifier import accuracy, correct, evaluating
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.ensemble_gains import EnsembleGain, GainRow, ensemble_gain
from dampode.robustness.evaluation import ATTACKS, evaluate
from dampode.robustness.loss_landscape import Landscape, landscape
from dampode.robustness.noise.cifar_c import load_cifar_c
from dampode.robustness.noise.corruptions import SEVERITIES, corrupt
from dampode.robustness.noise.sources import CifarCFiles, Drawn, NoiseSource, NormalizedPerFile
from dampode.robustness.report import Column, Law, Report

__all__ = [
    "ATTACKS",
    "FGSM",
    "IFGSM",
    "PGD",
    "SEVERITIES",
    "Attack",
    "CifarCFiles",
    "Column",
    "Drawn",
    "Ensemble",
    "EnsembleGain",
    "GainRow",
    "Landscape",
    "Law",
    "NoiseSource",
    "NormalizedPerFile",
    "RecenteredPGD",
    "Report",
    "Square",
    "Transfer",
    "UniformNoise",
    "accuracy",
    "correct",
    "corrupt",
    "ensemble_gain",
    "evaluate",
    "evaluating",
    "fgsm",
    "ifgsm",
    "landscape",
    "load_cifar_c",
    "pgd",
    "recentered_pgd",
    "square",
    "uniform_noise",
]
