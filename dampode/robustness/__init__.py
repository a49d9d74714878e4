"""Robustness of any classifier on pixels in [0, 1]: noise, attacks, measurement. Knows nothing of damping."""

from dampode.robustness.attacks import fgsm, ifgsm, pgd, recentered_pgd
from dampode.robustness.cifar_c import load_cifar_c
from dampode.robustness.classifier import accuracy, correct, evaluating
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.evaluate import ATTACKS, evaluate
from dampode.robustness.gain import EnsembleGain, GainRow, ensemble_gain
from dampode.robustness.landscape import Landscape, landscape
from dampode.robustness.noise import SEVERITIES, corrupt
from dampode.robustness.report import Column, Law, Report
from dampode.robustness.search import square, uniform_noise
from dampode.robustness.sources import CifarCFiles, Drawn, NoiseSource, NormalizedPerFile
from dampode.robustness.specs import FGSM, IFGSM, PGD, Attack, RecenteredPGD, Square, Transfer, UniformNoise

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
