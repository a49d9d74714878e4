"""Robustness of any classifier on pixels in [0, 1]: noise, attacks, measurement. Knows nothing of damping."""

from dampode.robustness.attacks import fgsm, ifgsm, pgd
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.evaluate import Report, accuracy, evaluate
from dampode.robustness.gain import EnsembleGain, GainRow, ensemble_gain
from dampode.robustness.landscape import Landscape, landscape
from dampode.robustness.noise import SEVERITIES, corrupt

__all__ = [
    "SEVERITIES",
    "Ensemble",
    "EnsembleGain",
    "GainRow",
    "Landscape",
    "Report",
    "accuracy",
    "corrupt",
    "ensemble_gain",
    "evaluate",
    "fgsm",
    "ifgsm",
    "landscape",
    "pgd",
]
