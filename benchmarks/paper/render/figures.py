"""The paper's figures from our full-scale results, and our figures of the smaller scales."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.paper.plan.rows import FEWER_EPOCHS, ROWS
from benchmarks.paper.plan.targets import FIGURE_2_IMAGES, FIGURES, GAIN_FIGURES
from benchmarks.paper.render.depth_study import PLAIN, ROBUSTNESS
from benchmarks.paper.render.statistics import (
    our_means,
    plain_curve,
    printed,
    select,
    share,
    trained,
    value,
)
from benchmarks.paper.render.tables import DATASETS
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN
from dampode import plots
from dampode.robustness import Landscape

__all__ = ["draw", "draw_depth", "draw_gains", "draw_shares", "drawable"]

LANDSCAPES = 2
"""The figure of loss landscapes."""
SHARE_MEASURES = {"noise": "Noise, mean of four kinds", "pgd 2/255": "PGD, ε = 2/255"}
MARKERS = "osD^vP*X<>hd"
GAIN_MEASURES = ("acc", "noise", "fgsm 2/255", "ifgsm 2/255", "pgd 2/255")
CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def drawable(number: int, results: Sequence[Result], protocol: str) -> bool:
    """Whether every network of a figure has been run at full scale; for Figure 2, with its landscapes."""
    rows, dataset = FIGURES[number]
    if number == LANDSCAPES:
        return all(_landscapes(results, row, protocol) for row in rows)
    kinds = {False, number in GAIN_FIGURES}
    return all(_trained(results, row, dataset, protocol, ensemble) for row in rows for ensemble in kinds)


def draw(number: int, results: Sequence[Result], protocol: str, path: Path) -> None:
    """Draw a figure that is `drawable` into an image file."""
    if number == LANDSCAPES:
        figure = _landscape_figure(results, protocol)
    elif number in GAIN_FIGURES:
        figure = _gain_figure(number, results, protocol)
    else:
        figure = _coefficient_figure(number, results, protocol)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_shares(rows: Sequence[str], runs: Sequence[Result], path: Path) -> None:
    """Draw the share of its clean accuracy that each run keeps against that accuracy.

    A line joins the means of plain networks trained for more and more epochs; those of fewer epochs are hollow.

    Args:
        rows: the networks, one marker each.
        runs: their runs and those with fewer epochs, under one protocol and scale.
        path: the image file.
    """
    figure, axes = plt.subplots(1, len(SHARE_MEASURES), figsize=(11, 4.2), layout="constrained")
    for ax, (measure, title) in zip(axes, SHARE_MEASURES.items(), strict=True):
        curve = plain_curve(runs, share, measure)
        ax.plot(
            [x for x, _ in curve],
            [y for _, y in curve],
            zorder=1,
            color="gray",
            linewidth=1,
            label="plain ResNets, means",
        )
        hollow = {"facecolors": "white", "edgecolors": "gray", "zorder": 1.5}
        marked = zip(rows, cycle(MARKERS), strict=False)
        styles: list[tuple[dict[str, Any], Sequence[str], str]] = [
            ({"marker": marker, "zorder": 2}, [row], ROWS[row].label) for row, marker in marked
        ]
        for style, of_style, label in [*styles, (hollow, tuple(FEWER_EPOCHS), "ResNet-110, fewer epochs")]:
            if found := trained(runs, *of_style):
                clean = [value(run, CLEAN) for run in found]
                ax.scatter(clean, [share(run, measure) for run in found], 45, label=label, **style)
        ax.set(xlabel="clean accuracy (%)", ylabel="share of clean accuracy kept (%)", title=title)
        ax.set_ylim(0, 105)
        ax.grid(alpha=0.3)
        ax.set_axisbelow(True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_depth(runs_of: dict[str, list[Result]], path: Path) -> None:
    """Draw the share that each run of the study of depth keeps, against its effective depth and its clean accuracy.

    A line joins the means of the plain networks by depth.

    Args:
        runs_of: network -> its runs at scale fit.
        path: the image file.
    """
    figure, axes = plt.subplots(len(ROBUSTNESS), 2, figsize=(11, 7.5), layout="constrained", sharey="row")
    against: tuple[tuple[str, Callable[[Result], float]], ...] = (
        ("effective depth", lambda run: float(run["depth"]["effective depth"])),
        ("clean accuracy (%)", lambda run: value(run, CLEAN)),
    )
    for line, (measure, title) in zip(axes, ROBUSTNESS.items(), strict=True):
        for ax, (label, read) in zip(line, against, strict=True):
            for (row, runs), marker in zip(runs_of.items(), cycle(MARKERS), strict=False):
                hollow = {"facecolors": "white", "edgecolors": "gray"} if row in PLAIN else {}
                kept = [share(run, measure) for run in runs]
                ax.scatter([read(run) for run in runs], kept, 45, marker=marker, label=ROWS[row].label, **hollow)
            ax.set(xlabel=label, title=f"share kept, {title}")
            ax.grid(alpha=0.3)
            ax.set_axisbelow(True)
        means = [
            (mean(map(against[0][1], runs_of[row])), mean(share(run, measure) for run in runs_of[row]))
            for row in PLAIN
            if row in runs_of
        ]
        line[0].plot(*zip(*means, strict=True), zorder=0, color="gray", linewidth=1, label="plain ResNets, means")
        line[0].set_ylabel("share of clean accuracy (%)")
        line[0].set_xscale("log", base=2)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _coefficient_figure(number: int, results: Sequence[Result], protocol: str) -> Figure:
    """Figures 1 and 4 to 6: one panel per network."""
    rows, dataset = FIGURES[number]
    figure, axes = plt.subplots(1, len(rows), figsize=(6 * len(rows), 3.6), layout="constrained", squeeze=False)
    for ax, row in zip(axes[0], rows, strict=True):
        runs = _trained(results, row, dataset, protocol)
        plots.coefficients_by_layer(ax, {ROWS[row].label: [run["coefficients"] for run in runs]})
        ax.set_title(DATASETS[dataset])
    return figure


def _gain_figure(number: int, results: Sequence[Result], protocol: str) -> Figure:
    """Figures 3, 7 and 8: one panel per depth."""
    rows, dataset = FIGURES[number]
    groups = [rows[:3], rows[3:]] if len(rows) > 3 else [rows]
    figure, axes = plt.subplots(1, len(groups), figsize=(7 * len(groups), 3.6), layout="constrained", squeeze=False)
    for ax, group in zip(axes[0], groups, strict=True):
        draw_gains(ax, group, dataset, results, protocol)
    return figure


def draw_gains(ax: Axes, rows: Sequence[str], dataset: str, results: Sequence[Result], protocol: str) -> None:
    """What an ensemble gains over the mean of its members: ours as bars, the paper's as crosses."""
    width = 0.8 / len(rows)
    for k, (row, hatch) in enumerate(zip(rows, ("", "//", ".."), strict=False)):
        places = [i + (k - (len(rows) - 1) / 2) * width for i in range(len(GAIN_MEASURES))]
        ours, theirs = (
            [
                together.mean - single.mean
                for measure in GAIN_MEASURES
                if (together := mean_of(row, dataset, measure, True))
                and (single := mean_of(row, dataset, measure, False))
            ]
            for mean_of in (our_means(results, protocol, "full"), printed)
        )
        ax.bar(places, ours, 0.9 * width, hatch=hatch, edgecolor="white", label=ROWS[row].label)
        ax.plot(places, theirs, "kx", markersize=5, label="paper" if k == 0 else None)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xticks=range(len(GAIN_MEASURES)), ylabel="gain of the ensemble (points)", title=DATASETS[dataset])
    ax.set_xticklabels(GAIN_MEASURES)
    ax.set_axisbelow(True)
    ax.grid(alpha=0.3, axis="y")
    ax.margins(y=0.2)
    ax.legend(frameon=False, ncols=4, loc="upper center", fontsize="small")


def _landscape_figure(results: Sequence[Result], protocol: str) -> Figure:
    """Figure 2: a line of panels per image, first the losses of all networks, then the predictions of each."""
    found = {row: _landscapes(results, row, protocol)[0] for row in FIGURES[LANDSCAPES][0]}
    shape = len(FIGURE_2_IMAGES), 1 + len(found)
    figure, axes = plt.subplots(*shape, figsize=(4.2 * shape[1], 4 * shape[0]), layout="constrained")
    for line, (kind, index) in enumerate(FIGURE_2_IMAGES):
        landscapes = {ROWS[row].label: _landscape(of_row[line]) for row, of_row in found.items()}
        plots.loss_along_attack(axes[line, 0], landscapes)
        axes[line, 0].set_title(f"{kind} noise, test image {index + 1}")
        for ax, (label, of_network) in zip(axes[line, 1:], landscapes.items(), strict=True):
            plots.predictions_around(ax, of_network, CLASSES)
            ax.set_title(label)
    return figure


def _landscape(values: dict[str, Any]) -> Landscape:
    tensors = {name: torch.tensor(values[name]) for name in ("labels", "loss", "prediction")}
    return Landscape(tuple(values["along"]), tuple(values["across"]), **tensors)


def _trained(results: Sequence[Result], row: str, dataset: str, protocol: str, ensemble: bool = False) -> list[Result]:
    return trained(select(results, row, dataset, protocol, "full", ensemble))


def _landscapes(results: Sequence[Result], row: str, protocol: str) -> list[list[dict[str, Any]]]:
    runs = _trained(results, row, FIGURES[LANDSCAPES][1], protocol)
    return [run["landscapes"] for run in runs if run["landscapes"]]
