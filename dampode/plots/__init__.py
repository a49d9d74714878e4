"""Matplotlib figures: functions that take data and an Axes, draw, and return the Axes."""

from dampode.plots.ensembles import ensemble_gains
from dampode.plots.files import save
from dampode.plots.landscapes import loss_along_attack, predictions_around
from dampode.plots.networks import (
    MARKERS,
    accuracy_by_radius,
    accuracy_by_severity,
    accuracy_curves,
    coefficients_by_layer,
    growth_by_layer,
    spectrum_shift,
    stability_region,
)

__all__ = [
    "MARKERS",
    "accuracy_by_radius",
    "accuracy_by_severity",
    "accuracy_curves",
    "coefficients_by_layer",
    "ensemble_gains",
    "growth_by_layer",
    "loss_along_attack",
    "predictions_around",
    "save",
    "spectrum_shift",
    "stability_region",
]
