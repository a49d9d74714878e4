"""The figure of the calls of f and the seconds that an error of 1e-5 costs, against λ."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.common.palette import STYLES, style

__all__ = ["cost_against_damping"]


def cost_against_damping(
    costs: Mapping[str, Mapping[float, tuple[float, float]]], title: str, xlabel: str, missing: str, path: Path
) -> None:
    """Draw calls of f and forward seconds against λ, one line per solver, on logarithmic axes.

    Args:
        costs: solver -> {λ: (calls of f, forward seconds)}; a solver without any point is named below the figure.
        title: what is solved.
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
    for solver in sorted(filter(costs.get, costs), key=_place):
        for ax, values in zip(axes, zip(*costs[solver].values(), strict=True), strict=True):
            ax.plot(list(costs[solver]), values, **style(solver)._asdict(), label=solver)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    figure.suptitle(title)
    absent = [solver for solver in costs if not costs[solver]]
    if any(len(points) < len(lams) for points in costs.values()):
        note = missing + (f"\nWithout any point: {', '.join(absent)}." if absent else "")
        figure.supxlabel(note, fontsize="small", x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _place(solver: str) -> int:
    """The place of a solver in the legend."""
    return list(STYLES).index(solver.removesuffix(", one sample"))
