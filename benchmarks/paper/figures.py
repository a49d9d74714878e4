"""The paper's figures redrawn from our full-scale results; a figure without all of its rows is not drawn."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.paper import landscapes
from benchmarks.paper.rows import FIGURES, ROWS, SHORTENED
from benchmarks.paper.summaries import Result, measured, plain_curve, printed, select, share, trained, value
from benchmarks.paper.tables import DATASETS
from dampode import plots

LANDSCAPES = 2
GAINS = (3, 7, 8)
SHARE_MEASURES = {"noise": "Noise, mean of four kinds", "pgd 2/255": "PGD, ε = 2/255"}
MARKERS = "osD^vP*X<>"
GAIN_MEASURES = ("acc", "noise", "fgsm 2/255", "ifgsm 2/255", "pgd 2/255")


def drawable(number: int, results: Sequence[Result], protocol: str) -> bool:
    """Whether every network of a figure has been run at full scale, for Figure 2 with its landscapes."""
    names, dataset = FIGURES[number]
    if number == LANDSCAPES:
        return all(_landscapes(results, name, protocol) for name in names)
    return all(_sound(results, name, dataset, protocol, ens) for name in names for ens in {False, number in GAINS})


def draw(number: int, results: Sequence[Result], protocol: str, path: Path) -> None:
    """Draw a figure that is `drawable`."""
    names, dataset = FIGURES[number]
    if number == LANDSCAPES:
        figure = landscapes.draw({name: _landscapes(results, name, protocol)[0] for name in names})
    elif number in GAINS:
        groups = [names[:3], names[3:]] if len(names) > 3 else [names]
        figure, axes = plt.subplots(1, len(groups), figsize=(7 * len(groups), 3.6), layout="constrained", squeeze=False)
        for ax, group in zip(axes[0], groups, strict=True):
            gains(ax, group, dataset, results, protocol)
    else:
        figure, axes = plt.subplots(1, len(names), figsize=(6 * len(names), 3.6), layout="constrained", squeeze=False)
        for ax, name in zip(axes[0], names, strict=True):
            runs = _sound(results, name, dataset, protocol)
            plots.coefficients_by_layer(ax, {ROWS[name].label: [run["coefficients"] for run in runs]})
            ax.set_title(DATASETS[dataset])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def shares(names: Sequence[str], runs: Sequence[Result], path: Path) -> None:
    """What each run keeps of its clean accuracy against that accuracy: does a network resist more than its fit says?

    The line joins the means of plain networks, trained for ever longer; those of fewer epochs are hollow.

    Args:
        names: the networks, one marker each.
        runs: their runs and those of the shortened ones, under one protocol and scale.
        path: the image to write.
    """
    figure, axes = plt.subplots(1, len(SHARE_MEASURES), figsize=(11, 4.2), layout="constrained")
    for ax, (measure, title) in zip(axes, SHARE_MEASURES.items(), strict=True):
        line = {"color": "gray", "linewidth": 1, "label": "plain ResNets, means"}
        ax.plot(*zip(*plain_curve(runs, share, measure), strict=True), zorder=1, **line)
        hollow = {"facecolors": "white", "edgecolors": "gray", "zorder": 1.5}
        marked = zip(names, cycle(MARKERS), strict=False)
        styles = [({"marker": marker, "zorder": 2}, [name], ROWS[name].label) for name, marker in marked]
        for style, rows, label in [*styles, (hollow, SHORTENED, "ResNet-110, fewer epochs")]:
            if of_rows := trained(runs, *rows):
                clean = [value(run, "acc") for run in of_rows]
                ax.scatter(clean, [share(run, measure) for run in of_rows], 45, label=label, **style)
        ax.set(xlabel="clean accuracy (%)", ylabel="share of clean accuracy kept (%)", title=title)
        ax.set_ylim(0, 105)
        ax.grid(alpha=0.3)
        ax.set_axisbelow(True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def gains(ax: Axes, names: Sequence[str], dataset: str, results: Sequence[Result], protocol: str) -> Axes:
    """What an ensemble gains over the mean of its members, ours as bars, the paper's as marks."""
    ours, width = measured(results, protocol, "full"), 0.8 / len(names)
    for k, (name, hatch) in enumerate(zip(names, ("", "//", ".."), strict=False)):
        places = [i + (k - (len(names) - 1) / 2) * width for i in range(len(GAIN_MEASURES))]
        for values, mark in ((ours, False), (printed, True)):
            pairs = [(values(name, dataset, m, True), values(name, dataset, m, False)) for m in GAIN_MEASURES]
            heights = [together.mean - single.mean for together, single in pairs if together and single]
            if mark:
                ax.plot(places, heights, "kx", markersize=5, label="paper" if k == 0 else None)
            else:
                ax.bar(places, heights, 0.9 * width, hatch=hatch, edgecolor="white", label=ROWS[name].label)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xticks=range(len(GAIN_MEASURES)), ylabel="gain of the ensemble (points)", title=DATASETS[dataset])
    ax.set_xticklabels(GAIN_MEASURES)
    ax.set_axisbelow(True)
    ax.grid(alpha=0.3, axis="y")
    ax.margins(y=0.2)
    ax.legend(frameon=False, ncols=4, loc="upper center", fontsize="small")
    return ax


def _sound(results: Sequence[Result], name: str, dataset: str, protocol: str, ensemble: bool = False) -> list[Result]:
    return [r for r in select(results, name, dataset, protocol, "full", ensemble) if not r["failed"]]


def _landscapes(results: Sequence[Result], name: str, protocol: str) -> list[list[dict[str, Any]]]:
    sound = _sound(results, name, FIGURES[LANDSCAPES][1], protocol)
    return [result["landscapes"] for result in sound if "landscapes" in result]
