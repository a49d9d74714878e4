"""Figures of accuracy: against severity, radius, or any strength."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes

from dampode.plots.styles import DASHES, MARKERS
from dampode.plots.tables import as_tables
from dampode.robustness import Report

__all__ = ["accuracy_by_radius", "accuracy_by_severity", "accuracy_curves"]


def accuracy_curves(ax: Axes, x: Sequence[float], curves: Mapping[str, Sequence[Sequence[float]]], xlabel: str) -> Axes:
    """Accuracy against the strength of a perturbation: the mean over seeds, with a band of one standard deviation.

    Args:
        ax: where to draw.
        x: strengths, (K,).
        curves: model name -> accuracies in [0, 1], one row of K values per seed.
        xlabel: the name of the strengths.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no curves, or a curve is not rows of K numbers.
    """
    for marker, (name, rows) in zip(cycle(MARKERS), as_tables(curves, len(x)).items(), strict=False):
        values = 100 * rows  # (seeds, K)
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0.0
        (line,) = ax.plot(x, mean, marker=marker, markersize=5, label=name)
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel=xlabel, ylabel="accuracy (%)", xticks=x)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def accuracy_by_radius(ax: Axes, report: Report) -> Axes:
    """Accuracy of one classifier against ε: one line per attack, and the worst case in black.

    Args:
        ax: where to draw.
        report: a report with attacks. Its clean accuracy is drawn at ε = 0.

    Returns:
        The same Axes.
    """
    _curves(ax, report, "attack", 255)
    radii = [0.0, *(e for e in report.strengths("attack") if e > 0)]
    ticks = [255 * e for e in radii]
    if report.radii:
        measured = [e for e in radii if e == 0 or e >= report.radii[0]]
        worst = [100 * report.robust_accuracy(e) for e in measured]
        ax.plot([255 * e for e in measured], worst, color="black", linewidth=1, linestyle=":", label="worst case")
    ax.set(xlabel="ε in 1/255 (0: clean)", ylabel="accuracy (%)", xticks=ticks, ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def accuracy_by_severity(ax: Axes, report: Report) -> Axes:
    """Accuracy of one classifier against the severity of noise: one line per noise.

    Args:
        ax: where to draw.
        report: a report with noise. Its clean accuracy is drawn at severity 0.

    Returns:
        The same Axes.
    """
    _curves(ax, report, "noise", 1)
    ax.set(xlabel="severity (0: clean)", ylabel="accuracy (%)", xticks=[0, *report.strengths("noise")], ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def _curves(ax: Axes, report: Report, group: str, unit: float) -> None:
    """A line for each name of a group, with its own marker and dashes."""
    for marker, dashes, name in zip(cycle(MARKERS), cycle(DASHES), report.names(group), strict=False):
        strengths, accuracies = report.curve(name)
        x, y = unit * np.asarray(strengths), 100 * np.asarray(accuracies)
        ax.plot(x, y, marker=marker, markersize=5, linestyle=dashes, label=name)
    ax.grid(alpha=0.3)
