"""Means and spreads over runs, beside the paper's printed ones, in percent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.paper.measure import ATTACKS, NOISES, RADII
from benchmarks.paper.rows import SHORT, TARGETS

Result = dict[str, Any]
ACC = "acc"
ATTACK_MEASURES = tuple(f"{attack} {radius}/255" for attack in ATTACKS for radius in RADII)
MEASURES = (ACC, *NOISES, "noise", *ATTACK_MEASURES)
"""The columns of Tables 1-3: clean, the four noises and their mean, nine attacks."""


@dataclass(frozen=True)
class Summary:
    """A mean over n runs and its standard deviation (n − 1; none for one run); n = 0 where all runs failed."""

    mean: float
    sd: float | None
    n: int
    failed: int = 0

    def __str__(self) -> str:
        if self.n == 0:
            return "failed"
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


Values = Callable[[str, str, str, bool], Summary | None]
"""(row's name, data set, measure, ensemble) -> its summary, or None where there is none."""


def value(result: Result, measure: str) -> float:
    """A measure of one run in percent; a noise is the mean of its severities, "noise" the mean of the four."""
    accuracy = result["accuracy"]
    if measure == "noise":
        return mean(value(result, kind) for kind in NOISES)
    found = accuracy[measure]
    return 100 * (mean(found) if isinstance(found, list) else found)


def share(result: Result, measure: str) -> float:
    """A measure as a share of the clean accuracy on the same images, in percent."""
    clean = "acc attacked" if measure in ATTACK_MEASURES else ACC
    return 100 * value(result, measure) / value(result, clean)


def summarize(values: Sequence[float], failed: int = 0) -> Summary | None:
    """Mean and standard deviation of the values of runs that trained; None where there was no run."""
    if not values:
        return Summary(nan, None, 0, failed) if failed else None
    return Summary(mean(values), stdev(values) if len(values) > 1 else None, len(values), failed)


def select(
    results: Sequence[Result], row: str, dataset: str, protocol: str, scale: str, ensemble: bool = False
) -> list[Result]:
    """The results of one row under one protocol and scale; several seeds in a result are an ensemble."""
    return [
        result
        for result in results
        if (config := result["config"])["row"] == row
        and config["dataset"] == dataset
        and config["protocol"]["name"] == protocol
        and config["scale"]["name"] == scale
        and (len(config["seeds"]) > 1) == ensemble
    ]


def trained(results: Sequence[Result], *rows: str) -> list[Result]:
    """The results of some rows that did not fail."""
    return [result for result in results if result["config"]["row"] in rows and not result["failed"]]


def measured(results: Sequence[Result], protocol: str, scale: str) -> Values:
    """Our means over the runs that trained, under one protocol and scale."""

    def values(row: str, dataset: str, measure: str, ensemble: bool) -> Summary | None:
        of_row = select(results, row, dataset, protocol, scale, ensemble)
        sound = [result for result in of_row if not result["failed"]]
        return summarize([value(result, measure) for result in sound], len(of_row) - len(sound))

    return values


def plain_at(results: Sequence[Result], measure: str, acc: float) -> float | None:
    """What a plain network of a clean accuracy has in a measure: interpolated between the means of `SHORT`.

    Args:
        results: under one protocol and scale.
        measure: of ``MEASURES``.
        acc: clean accuracy in percent.

    Returns:
        The measure in percent; None where no plain networks were run on both sides of the accuracy.
    """
    curve = plain_curve(results, value, measure)
    if not curve or not curve[0][0] <= acc <= curve[-1][0]:
        return None
    return float(np.interp(acc, *zip(*curve, strict=True)))


def plain_curve(
    results: Sequence[Result], read: Callable[[Result, str], float], measure: str
) -> list[tuple[float, float]]:
    """(clean accuracy, measure) of plain networks trained for ever longer: means over the runs, by accuracy."""
    points = []
    for row in SHORT:
        if runs := trained(results, row):
            points.append((mean(value(run, ACC) for run in runs), mean(read(run, measure) for run in runs)))
    return sorted(points)


def printed(row: str, dataset: str, measure: str, ensemble: bool) -> Summary | None:
    """The paper's mean; Tables 1-8 agree wherever they print one number twice."""
    for e in TARGETS:
        cell = e["model"], e["dataset"], e["measure"], e["ensemble"]
        if e["table"] <= 8 and cell == (row, dataset, measure, ensemble):
            return Summary(e["value"], e["sd"], e["seeds"])
    return None
