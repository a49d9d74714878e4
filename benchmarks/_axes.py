"""The figure of what an error costs: calls of f and seconds against λ."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt


def cost_against_damping(costs: Mapping[str, Mapping[float, tuple[float, float]]], xlabel: str, path: Path) -> None:
    """Draw solver -> {λ: (calls of f, forward seconds)} on two pairs of logarithmic axes, a line a solver."""
    figure, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    for marker, (solver, points) in zip("oXsD^v<>P*p", costs.items(), strict=False):
        if points:
            for ax, values in zip(axes, zip(*points.values(), strict=True), strict=True):
                ax.loglog(list(points), values, marker=marker, label=solver)
    for ax, kind in zip(axes, ("calls of f", "forward seconds"), strict=True):
        ax.set(xlabel=xlabel, ylabel=f"{kind} for a relative error of 1e-5")
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
