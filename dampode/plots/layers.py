"""Figures of one number per layer: damping coefficients and growth factors."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dampode.plots.styles import MARKERS
from dampode.plots.tables import as_tables

__all__ = ["coefficients_by_layer", "growth_by_layer"]

NEAR = 0.4
"""A line at 0 or 1 is drawn if a coefficient is nearer than this."""
GROWTH = r"$\|\delta x_{n+1}\| \,/\, \|\delta x_n\|$"


def coefficients_by_layer(ax: Axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> Axes:
    """The coefficients λ_n against n: faint points per seed, and their mean, as in the paper's Figs. 1 and 4-6.

    No line joins them, because the first layer of a stage has no coefficient. Lines at λ = 0 and λ = 1 are drawn where
    the coefficients come near.

    Args:
        ax: where to draw.
        curves: model name -> λ_n, one row per seed.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no curves, or the rows of a curve are not numbers of the same count.
    """
    low, high = np.inf, -np.inf
    tables = as_tables(curves)
    for place, (marker, (name, values)) in enumerate(zip(cycle(MARKERS), tables.items(), strict=False)):
        n = np.arange(1, values.shape[1] + 1) + 0.15 * (place - (len(tables) - 1) / 2)  # equal λ_n stay apart
        (line,) = ax.plot(n, values.mean(0), marker, markersize=5, label=name)
        if len(values) > 1:
            ax.plot(n, values.T, marker, color=line.get_color(), alpha=0.3, markersize=3)
        low, high = min(low, values.min()), max(high, values.max())
    ax.margins(y=0.15)
    for value, text in ((0, "λ = 0: residual"), (1, "λ = 1: non-residual")):
        if low - NEAR <= value <= high + NEAR:
            ax.axhline(value, color="gray", linewidth=0.8, linestyle="--")
            ax.annotate(text, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="damped layer $n$", ylabel=r"$\lambda_n$ after training", title="Learned damping by layer")
    ax.legend(frameon=False)
    return ax


def growth_by_layer(ax: Axes, curves: Mapping[str, Sequence[float]], ylabel: str = GROWTH) -> Axes:
    """The growth factor of each layer, on a logarithmic axis. A line at 1 separates decay from growth.

    Args:
        ax: where to draw.
        curves: name -> one positive number per layer.
        ylabel: the name of the numbers.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no curves, or a curve is not a row of numbers.
    """
    for name, rows in as_tables({name: [values] for name, values in curves.items()}).items():
        ax.plot(range(1, rows.shape[1] + 1), rows[0], marker="o", markersize=3, label=name)
    ax.axhline(1, color="gray", linewidth=0.8, linestyle="--")
    ax.set(xlabel="layer n", ylabel=ylabel, yscale="log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.grid(alpha=0.3, which="both")
    ax.legend(frameon=False, fontsize="small")
    return ax
