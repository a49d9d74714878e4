"""Means and standard deviations over runs, and the paper's printed ones, in percent."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np

from benchmarks.paper.plan.protocols import RADII
from benchmarks.paper.plan.rows import PLAIN_BY_EPOCHS
from benchmarks.paper.plan.targets import PRINTED
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import ATTACKS, CLEAN, CLEAN_ATTACKED, NOISES

__all__ = [
    "MEASURES",
    "NOISE_MEAN",
    "MeanOf",
    "Summary",
    "our_means",
    "plain_at",
    "plain_curve",
    "printed",
    "sampling_error",
    "select",
    "share",
    "summarize",
    "trained",
    "value",
]

NOISE_MEAN = "noise"
ATTACK_MEASURES = tuple(f"{attack} {radius}/255" for attack in ATTACKS for radius in RADII)
NOT_ATTACKED = (CLEAN, NOISE_MEAN, *NOISES)
MEASURES = (CLEAN, *NOISES, NOISE_MEAN, *ATTACK_MEASURES)
"""The columns of Tables 1 to 3: clean, the four noises and their mean, nine attacks."""


@dataclass(frozen=True)
class Summary:
    """A mean over n runs and its standard deviation (n − 1).

    Args:
        mean: in percent; NaN if n = 0.
        sd: in percent; None for one run.
        n: number of runs that trained; 0 if all failed.
        failed: number of runs that failed to train.
    """

    mean: float
    sd: float | None
    n: int
    failed: int = 0

    def __str__(self) -> str:
        if self.n == 0:
            return "failed"
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


MeanOf = Callable[[str, str, str, bool], Summary | None]
"""(row, data set, measure, ensemble) -> its summary, or None if there is none."""


def value(result: Result, measure: str) -> float:
    """A measure of one run in percent; a noise is the mean of its severities, "noise" the mean of the four noises."""
    if measure == NOISE_MEAN:
        return mean(value(result, kind) for kind in NOISES)
    found: float | list[float] = result["accuracy"][measure]
    return 100 * (mean(found) if isinstance(found, list) else found)


def share(result: Result, measure: str) -> float:
    """A measure as a share of the clean accuracy on the same images, in percent."""
    clean = CLEAN if measure in NOT_ATTACKED else CLEAN_ATTACKED
    return 100 * value(result, measure) / value(result, clean)


def sampling_error(images: int) -> float:
    """The largest standard error of an accuracy on so many images, in points: that of an accuracy of one half."""
    return 50 / math.sqrt(images)


def summarize(values: Sequence[float], failed: int = 0) -> Summary | None:
    """Mean and standard deviation of the values of runs that trained; None if there was no run."""
    if not values:
        return Summary(math.nan, None, 0, failed) if failed else None
    return Summary(mean(values), stdev(values) if len(values) > 1 else None, len(values), failed)


def select(
    results: Sequence[Result], row: str, dataset: str, protocol: str, scale: str, ensemble: bool = False
) -> list[Result]:
    """The results of one row under one protocol and scale; a result with several seeds is an ensemble."""
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
    """The results of some rows, without the failed ones; without rows, of all."""
    return [result for result in results if not result["failed"] and (not rows or result["config"]["row"] in rows)]


def our_means(results: Sequence[Result], protocol: str, scale: str) -> MeanOf:
    """Our means over the runs that trained, under one protocol and scale."""

    def mean_of(row: str, dataset: str, measure: str, ensemble: bool) -> Summary | None:
        runs = select(results, row, dataset, protocol, scale, ensemble)
        sound = trained(runs)
        return summarize([value(run, measure) for run in sound], len(runs) - len(sound))

    return mean_of


def printed(row: str, dataset: str, measure: str, ensemble: bool) -> Summary | None:
    """The paper's mean. Tables 1 to 8 agree wherever they print a number twice."""
    for e in PRINTED:
        if e["table"] <= 8 and (e["model"], e["dataset"], e["measure"], e["ensemble"]) == (
            row,
            dataset,
            measure,
            ensemble,
        ):
            return Summary(e["value"], e["sd"], e["seeds"])
    return None


def plain_at(results: Sequence[Result], measure: str, clean_accuracy: float) -> float | None:
    """A measure of a plain network of a given clean accuracy: interpolated between the means of `PLAIN_BY_EPOCHS`.

    Args:
        results: under one protocol and scale.
        measure: of `MEASURES`.
        clean_accuracy: in percent.

    Returns:
        The measure in percent; None if the accuracy lies outside those of the plain networks.
    """
    curve = plain_curve(results, value, measure)
    if not curve or not curve[0][0] <= clean_accuracy <= curve[-1][0]:
        return None
    return float(np.interp(clean_accuracy, [x for x, _ in curve], [y for _, y in curve]))


def plain_curve(
    results: Sequence[Result], read: Callable[[Result, str], float], measure: str
) -> list[tuple[float, float]]:
    """(clean accuracy, measure) of each of `PLAIN_BY_EPOCHS`: means over its runs, sorted by accuracy."""
    points = []
    for row in PLAIN_BY_EPOCHS:
        if runs := trained(results, row):
            points.append((mean(value(run, CLEAN) for run in runs), mean(read(run, measure) for run in runs)))
    return sorted(points)
