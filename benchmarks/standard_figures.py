"""The figures of the standard problems, from their results."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks.common.palette import OURS, STYLES, style
from benchmarks.common.record import RESULTS
from benchmarks.common.standard_problems import DETEST, STIFF, StandardProblem

__all__ = ["FIGURES", "figures", "points"]

FIGURES: dict[str, tuple[Sequence[StandardProblem], int]] = {
    "standard_nonstiff.png": (DETEST, 5),
    "standard_stiff.png": (STIFF, 3),
}
"""File -> its problems, and the panels per row."""

Results = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""Problem -> solver -> tolerance -> cell."""


def points(cells: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, int]]:
    """Delivered error and calls of f, the loosest tolerance first."""
    ordered = sorted(cells.items(), key=lambda item: -float(item[0]))
    return [(cell["error"], cell["calls"]) for _, cell in ordered if cell.get("error")]


def figures(results: Results) -> None:
    """Draw calls of f against the delivered error, a panel for each problem."""
    for name, (problems, columns) in FIGURES.items():
        rows = -(-len(problems) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.6 * columns + 0.4, 2.3 * rows + 0.8), layout="constrained", squeeze=False
        )
        for ax, problem in zip(axes.flat, problems, strict=True):
            panel(ax, problem, results.get(problem.name, {}))
        for ax in axes[:, 0]:
            ax.set_ylabel("calls of f")
        for ax in axes[-1]:
            ax.set_xlabel("delivered error")
        handles = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
        order = [solver for solver in STYLES if solver in handles]
        figure.legend([handles[solver] for solver in order], order, loc="outside upper center", ncols=4, frameon=False)
        figure.savefig(RESULTS / name, dpi=110)
        plt.close(figure)


def panel(ax: Any, problem: StandardProblem, of_problem: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """One problem: more accurate to the right, cheaper below."""
    for solver in sorted(of_problem, key=lambda name: name in OURS):
        drawn = [(min(error, 1.0), calls) for error, calls in points(of_problem[solver])]
        if drawn:
            width = 1.8 if solver in OURS else 0.9
            ax.plot(*zip(*drawn, strict=True), **style(solver)._asdict(), lw=width, ms=3, label=solver)
    ax.set(title=problem.name, xscale="log", yscale="log")
    ax.invert_xaxis()
    ax.grid(alpha=0.3)
    ax.tick_params(labelsize=7)
    ax.yaxis.set_minor_formatter(NullFormatter())
