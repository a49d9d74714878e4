"""Matplotlib figures: functions that take data and an Axes, draw, and return the Axes."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

MARKERS = "osD^vP*X"
"""One a model, so that a figure is legible without color."""


def accuracy_curves(ax: Axes, x: Sequence[float], curves: Mapping[str, Sequence[Sequence[float]]], xlabel: str) -> Axes:
    """Accuracy against the strength of a perturbation, mean over seeds with a band of one standard deviation.

    Args:
        ax: where to draw.
        x: strengths, (K,).
        curves: per model name, accuracies in [0, 1], one row of K values a seed.
        xlabel: what the strengths are.
    """
    for marker, (name, rows) in zip(cycle(MARKERS), curves.items(), strict=False):
        values = 100 * np.asarray(rows, dtype=float)  # (seeds, K)
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0.0
        (line,) = ax.plot(x, mean, marker=marker, markersize=5, label=name)
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel=xlabel, ylabel="accuracy (%)", xticks=x)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def coefficients_by_layer(ax: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> Axes:
    """The coefficients λ_n against n, one faint line a seed and their mean, as the paper's Figs. 1 and 4-6.

    Args:
        ax: where to draw.
        curves: per model name, λ_n, one row a seed.
    """
    for marker, (name, rows) in zip(cycle(MARKERS), curves.items(), strict=False):
        values = np.asarray(rows, dtype=float)  # (seeds, layers)
        n = np.arange(1, values.shape[1] + 1)
        (line,) = ax.plot(n, values.mean(0), marker=marker, markersize=4, label=name)
        if len(values) > 1:
            ax.plot(n, values.T, color=line.get_color(), alpha=0.3, linewidth=0.8)
    for value, text in ((0, "λ = 0: residual"), (1, "λ = 1: non-residual")):
        ax.axhline(value, color="gray", linewidth=0.8, linestyle="--")
        ax.annotate(text, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="damped layer n", ylabel="λ_n after training")
    ax.legend(frameon=False)
    return ax
