"""Figures of accuracy: against severity, radius, or any strength."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dampode.plots.intervals import wilson
from dampode.plots.styles import DASHES, MARKERS
from dampode.plots.tables import as_tables
from dampode.robustness import Report
from dampode.robustness.norms import Norm

__all__ = ["accuracy_by_radius", "accuracy_by_severity", "accuracy_curves", "worst_cases"]

_LABELS: Mapping[Norm, str] = {"linf": "ε in 1/255 (0: clean)", "l2": "ε in L2 (0: clean)"}


def accuracy_curves(
    ax: Axes,
    x: Sequence[float],
    curves: Mapping[str, Sequence[Sequence[float]]],
    xlabel: str,
    images: int | None = None,
) -> Axes:
    """Accuracy against the strength of a perturbation: the mean over seeds, with a band of one standard deviation.

    With the number of images, bars show Wilson's 95 % interval of the mean for one set of so many images.

    Args:
        ax: where to draw.
        x: strengths, (K,).
        curves: model name -> accuracies in [0, 1], one row of K values per seed.
        xlabel: the name of the strengths.
        images: number of test images; None draws no bars.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no curves, or a curve is not rows of K numbers.
    """
    for marker, (name, rows) in zip(cycle(MARKERS), as_tables(curves, len(x)).items(), strict=False):
        values = 100 * rows  # (seeds, K)
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0.0
        (line,) = ax.plot(x, mean, marker=marker, markersize=5, label=name)
        if images is not None:
            _bars(ax, x, mean / 100, images, line.get_color())
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel=xlabel, ylabel="accuracy (%)", xticks=x)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def accuracy_by_radius(ax: Axes, report: Report, norm: Norm = "linf") -> Axes:
    """Accuracy of one classifier against ε: one line per attack, and the worst case as a wide band behind them.

    Bars show Wilson's 95 % interval for the number of images.

    Args:
        ax: where to draw.
        report: a report with attacks. Its clean accuracy is drawn at ε = 0.
        norm: the attacks of this norm are drawn.

    Returns:
        The same Axes.
    """
    unit = _unit(norm)
    _curves(ax, report, report.names("attack", norm), unit)
    radii = [0.0, *(e for e in report.strengths("attack", norm) if e > 0)]
    if report.radii(norm):
        e, accuracy = _worst_case(report, norm, radii)
        ax.plot(unit * e, 100 * accuracy, color="black", alpha=0.2, linewidth=7, zorder=1, label="worst case")
    ax.set(xlabel=_LABELS[norm], ylabel="accuracy (%)", xticks=[unit * e for e in radii], ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def worst_cases(ax: Axes, reports: Mapping[str, Report], norm: Norm = "linf") -> Axes:
    """The worst case of several classifiers against ε: one line per report, with Wilson's 95 % intervals.

    Args:
        ax: where to draw.
        reports: name of a classifier -> its report with attacks in this norm.
        norm: the norm of ε.

    Returns:
        The same Axes.
    """
    ticks, unit = {0.0}, _unit(norm)
    for marker, dashes, (name, report) in zip(cycle(MARKERS), cycle(DASHES), reports.items(), strict=False):
        e, accuracy = _worst_case(report, norm, [0.0, *report.radii(norm)])
        (line,) = ax.plot(unit * e, 100 * accuracy, marker=marker, markersize=5, linestyle=dashes, label=name)
        _bars(ax, unit * e, accuracy, report.n, line.get_color())
        ticks |= set(unit * e)
    ax.set(xlabel=_LABELS[norm], ylabel="accuracy in the worst case (%)", xticks=sorted(ticks), ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def accuracy_by_severity(ax: Axes, report: Report) -> Axes:
    """Accuracy of one classifier against the severity of noise: one line per noise, with Wilson's 95 % intervals.

    Args:
        ax: where to draw.
        report: a report with noise. Its clean accuracy is drawn at severity 0.

    Returns:
        The same Axes.
    """
    _curves(ax, report, report.names("noise"), 1)
    ax.set(xlabel="severity (0: clean)", ylabel="accuracy (%)", xticks=[0, *report.strengths("noise")], ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def _curves(ax: Axes, report: Report, names: Sequence[str], unit: float) -> None:
    """A line for each name, with its own marker and dashes."""
    for marker, dashes, name in zip(cycle(MARKERS), cycle(DASHES), names, strict=False):
        strengths, accuracies = report.curve(name)
        x, y = unit * np.asarray(strengths), 100 * np.asarray(accuracies)
        (line,) = ax.plot(x, y, marker=marker, markersize=5, linestyle=dashes, label=name)
        _bars(ax, x, y / 100, report.n, line.get_color())
    ax.grid(alpha=0.3)


def _bars(ax: Axes, x: Any, accuracy: np.ndarray[Any, Any], images: int, color: Any) -> None:
    """Wilson's intervals in percent."""
    low, high = wilson(accuracy, images)
    ax.vlines(x, 100 * low, 100 * high, color=color, alpha=0.5, linewidth=1.5)


def _worst_case(
    report: Report, norm: Norm, radii: Sequence[float]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The radii at which the worst case was measured, and the accuracy there."""
    smallest = min(report.radii(norm), default=math.inf)
    measured = [e for e in radii if e == 0 or e >= smallest]
    return np.array(measured), np.array([report.robust_accuracy(e, norm) for e in measured])


def _unit(norm: Norm) -> float:
    """Units of the axis per unit of a pixel: 1/255 in L∞."""
    return 255 if norm == "linf" else 1
