"""Figures of one network or of several: accuracy, coefficients, spectra, stability regions, growth."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from dampode.robustness import Report
from dampode.stability import StabilityRegion, damped_eigenvalues
from dampode.weighting import Weighting

MARKERS = "osD^vP*X"
"""One a model, so that a figure is legible without color."""
DASHES = ("-", "--", "-.", ":")
GROWTH = r"$\|\delta x_{n+1}\| \,/\, \|\delta x_n\|$"


def accuracy_curves(ax: Axes, x: Sequence[float], curves: Mapping[str, Sequence[Sequence[float]]], xlabel: str) -> Axes:
    """Accuracy against the strength of a perturbation, mean over seeds with a band of one standard deviation.

    Args:
        ax: where to draw.
        x: strengths, (K,).
        curves: per model name, accuracies in [0, 1], one row of K values a seed.
        xlabel: what the strengths are.

    Raises:
        ValueError: no curves, or one that is not rows of K numbers.
    """
    for marker, (name, rows) in zip(cycle(MARKERS), _tables(curves, len(x)).items(), strict=False):
        values = 100 * rows  # (seeds, K)
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0.0
        (line,) = ax.plot(x, mean, marker=marker, markersize=5, label=name)
        ax.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set(xlabel=xlabel, ylabel="accuracy (%)", xticks=x)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def accuracy_by_radius(ax: Axes, report: Report) -> Axes:
    """Accuracy of one classifier against ε, a line an attack, the clean accuracy at 0 and the worst case in black.

    Args:
        ax: where to draw.
        report: a measurement with attacks.
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
    """Accuracy of one classifier against the severity of noise, a line a kind, the clean accuracy at 0.

    Args:
        ax: where to draw.
        report: a measurement with noise.
    """
    _curves(ax, report, "noise", 1)
    ax.set(xlabel="severity (0: clean)", ylabel="accuracy (%)", xticks=[0, *report.strengths("noise")], ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def _curves(ax: Axes, report: Report, group: str, unit: float) -> None:
    """A line for every name of a group, told apart by marker and dashes as well as color."""
    for marker, dashes, name in zip(cycle(MARKERS), cycle(DASHES), report.names(group), strict=False):
        strengths, accuracies = report.curve(name)
        x, y = unit * np.asarray(strengths), 100 * np.asarray(accuracies)
        ax.plot(x, y, marker=marker, markersize=5, linestyle=dashes, label=name)
    ax.grid(alpha=0.3)


def coefficients_by_layer(ax: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> Axes:
    """The coefficients λ_n against n, one faint line a seed and their mean, as the paper's Figs. 1 and 4-6.

    Args:
        ax: where to draw.
        curves: per model name, λ_n, one row a seed.

    Raises:
        ValueError: no curves, or one that is not rows of as many numbers.
    """
    for marker, (name, values) in zip(cycle(MARKERS), _tables(curves).items(), strict=False):  # (seeds, layers)
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


def spectrum_shift(ax: Axes, nu: Tensor, lam: float, rho: Weighting) -> Axes:
    """Eigenvalues before and after damping, with the shift ν -> ρ(λ) ν − λ of Eq. 18 drawn as lines.

    Args:
        ax: where to draw.
        nu: eigenvalues ν of ∂f/∂x, complex.
        lam: damping λ >= 0.
        rho: the weight function.
    """
    nu = nu.detach().cpu()
    before = nu.flatten().numpy()
    after = damped_eigenvalues(nu, lam, rho).flatten().numpy()
    ax.plot([before.real, after.real], [before.imag, after.imag], color="gray", linewidth=0.5, alpha=0.6)
    ax.scatter(before.real, before.imag, s=14, facecolors="none", edgecolors="tab:red", label="ν, undamped", zorder=2)
    ax.scatter(after.real, after.imag, s=10, color="tab:blue", label=f"ρ(λ) ν − λ, λ = {lam:.3g}", zorder=3)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(xlabel="real part", ylabel="imaginary part")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small")
    return ax


def stability_region(ax: Axes, region: StabilityRegion, title: str, nu: Tensor | None = None) -> Axes:
    """Where a step keeps perturbations bounded, |R| <= 1, over w = h ρ ν; a dashed line bounds the equation's own.

    Args:
        ax: where to draw; draw several side by side for several z or integrators.
        region: the region as data.
        title: what stands above.
        nu: points w = h ρ ν to mark, complex.
    """
    re, im, modulus = region.re.numpy(), region.im.numpy(), region.amplification.abs().numpy()
    ax.contourf(re, im, modulus, levels=[0, 0.25, 0.5, 0.75, 1], cmap="Blues_r", alpha=0.8)
    ax.contour(re, im, modulus, levels=[1], colors="tab:blue", linewidths=1.5)
    ax.axvline(region.z, color="black", linewidth=0.8, linestyle="--")  # the equation is stable for Re w < hλ
    if nu is not None:
        nu = nu.detach().cpu()
        ax.scatter(nu.real.numpy(), nu.imag.numpy(), s=8, color="tab:red", zorder=3)
    ax.set(xlabel="Re hρν", ylabel="Im hρν", title=title, aspect="equal")
    ax.grid(alpha=0.3)
    return ax


def growth_by_layer(ax: Axes, curves: Mapping[str, Sequence[float]], ylabel: str = GROWTH) -> Axes:
    """A factor of growth a layer, on a logarithmic axis, with the line at 1 between decay and growth.

    Args:
        ax: where to draw.
        curves: per name, one positive number a layer.
        ylabel: what they are.

    Raises:
        ValueError: no curves, or one that is not a row of numbers.
    """
    for name, rows in _tables({name: [values] for name, values in curves.items()}).items():
        ax.plot(range(1, rows.shape[1] + 1), rows[0], marker="o", markersize=3, label=name)
    ax.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    ax.set(xlabel="layer n", ylabel=ylabel, yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.grid(alpha=0.3, which="both")
    ax.legend(frameon=False, fontsize="small")
    return ax


def _tables(curves: Mapping[str, Any], columns: int | None = None) -> dict[str, NDArray[Any]]:
    """Each curve's rows of numbers, lists or tensors, as an array (rows, columns), or a worded error."""
    if not curves:
        raise ValueError("a figure needs at least one curve, got none")
    arrays = {}
    for name, rows in curves.items():
        plain = [row.tolist() if isinstance(row, Tensor) else row for row in rows]
        lengths = {np.size(row) if np.ndim(row) == 1 else 0 for row in plain}  # 0: no row of numbers
        if len(lengths) != 1 or 0 in lengths or columns not in (None, *lengths):
            numbers = "numbers, as many in each" if columns is None else f"{columns} numbers"
            raise ValueError(f"the curve {name!r} must be rows of {numbers}, one row a seed, got {plain!s:.80}")
        arrays[name] = np.asarray(plain, dtype=float)
    return arrays
