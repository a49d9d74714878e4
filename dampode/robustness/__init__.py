"""Robustness of any classifier on pixels in [0, 1]: noise, attacks, measurement. Knows nothing of damping."""

from dampode.robustness.attacks import fgsm, ifgsm, pgd
from dampode.robustness.evaluate import Report, accuracy, evaluate
from dampode.robustness.noise import SEVERITIES, corrupt

__all__ = ["SEVERITIES", "Report", "accuracy", "corrupt", "evaluate", "fgsm", "ifgsm", "pgd"]
