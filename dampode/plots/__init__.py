"""Figures with matplotlib. Each function takes an Axes and data, draws, and returns the Axes."""

from dampode.plots.accuracy import accuracy_by_radius, accuracy_by_severity, accuracy_curves, worst_cases
from dampode.plots.ensembles import ensemble_gains
from dampode.plots.files import save
from dampode.plots.intervals import wilson
from dampode.plots.landscapes import loss_along_attack, predictions_around
from dampode.plots.layers import coefficients_by_layer, growth_by_layer
from dampode.plots.spectra import spectrum_shift, stability_region

__all__ = [
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
    "wilson",
    "worst_cases",
]
