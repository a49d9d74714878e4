"""The figure of the calls of f and the seconds that an error of 1e-5 costs, against λ."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["STYLES", "cost_against_damping"]

STYLES = {
    "ExponentialAdams": "k o -",
    "ExponentialAdams, compiled": "k * --",
    "AdaptiveExponential": "C0 o -",
    "AdaptiveExponential, compiled": "C0 * --",
    "KenCarp4": "C3 s -",
    "KenCarp4, compiled": "C3 P --",
    "torchdiffeq dopri5": "C1 X -",
    "torchdiffeq dopri8": "C6 D -",
    "torchdiffeq bosh3": "C6 p :",
    "torchdiffeq rk4": "C6 d :",
    "torchdiffeq implicit_adams": "C6 h :",
    "torchode dopri5": "C5 p -",
    "diffrax Tsit5": "C7 H -",
    "diffrax Kvaerno5": "C7 > -",
    "SciPy BDF, one sample": "C9 ^ -",
    "SciPy LSODA, one sample": "C4 v -",
    "SciPy Radau, one sample": "C2 < -",
}
"""Color, marker and line of each solver, the same in every figure, in the order of the legend."""


def cost_against_damping(
    costs: Mapping[str, Mapping[float, tuple[float, float]]], xlabel: str, missing: str, path: Path
) -> None:
    """Draw calls of f and forward seconds against λ, one line per solver, on logarithmic axes.

    Args:
        costs: solver -> {λ: (calls of f, forward seconds)}; a solver without any point is named below the figure.
        xlabel: of both panels. With a point at λ = 0 the axes are linear from 0 to 1.
        missing: why a point may be missing.
        path: the image file.
    """
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.3), layout="constrained")
    lams = {lam for points in costs.values() for lam in points}
    for ax, kind in zip(axes, ("calls of f", "forward seconds"), strict=True):
        ax.set_yscale("log")
        if 0 in lams:
            ax.set_xscale("symlog", linthresh=1, linscale=0.6)
            ax.set_xlim(-0.3, 2 * max(lams))
        else:
            ax.set_xscale("log")
        ax.set(xlabel=xlabel, ylabel=f"{kind} for a relative error of 1e-5")
        ax.grid(alpha=0.3)
    for solver, style in STYLES.items():
        if points := costs.get(solver):
            color, marker, line = style.split()
            for ax, values in zip(axes, zip(*points.values(), strict=True), strict=True):
                ax.plot(list(points), values, color=color, marker=marker, linestyle=line, label=solver)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    absent = [solver for solver in STYLES if solver in costs and not costs[solver]]
    if any(len(points) < len(lams) for points in costs.values()):
        note = missing + (f"\nWithout any point: {', '.join(absent)}." if absent else "")
        figure.supxlabel(note, fontsize="small", x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
