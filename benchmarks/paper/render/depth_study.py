"""The study of depth at scale fit: does robustness follow effective depth, clean accuracy, the gains, or λ?"""

from collections.abc import Callable, Sequence
from math import log2
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.plan.protocols import FIT, TEXT
from benchmarks.paper.plan.rows import ROWS, SHALLOW
from benchmarks.paper.plan.targets import EXPERIMENTS
from benchmarks.paper.render.regression import Floats, Interval, bootstrap, rank_correlation, regression
from benchmarks.paper.render.statistics import (
    NOISE_MEAN,
    Summary,
    sampling_error,
    select,
    share,
    summarize,
    trained,
    value,
)
from benchmarks.paper.render.tables import markdown
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN

__all__ = [
    "PLAIN",
    "PROPERTIES",
    "ROBUSTNESS",
    "SOUND",
    "Intervals",
    "beside_plain",
    "correlation_table",
    "fit_runs",
    "gain_growth",
    "intervals",
    "network_table",
    "plain_beside",
    "regression_table",
]

Intervals = tuple[dict[str, Interval], dict[str, Interval]]
"""Property -> its rank correlation with a share kept, and its coefficient in a regression on all properties."""
PLAIN = (*SHALLOW, "resnet-110")
"""Plain networks by depth."""
PRINTED_PGD, SOUND = "pgd 2/255", "apgd-ce 2/255"
ROBUSTNESS = {NOISE_MEAN: "noise", SOUND: "APGD 2/255"}
MOST_LAM = 2.0
"""A larger λ_n counts as this much: (1 − λ) x then grows from block to block, whatever λ_n is exactly."""


def gain_growth(run: Result) -> float:
    """How much more the later blocks of a stage contribute than the earlier ones, as log10 of a ratio of amplitudes.

    Mean over the stages. The share p of a block goes with the square of its output; the first block of a stage is left
    out, because no gain acts on it. 0 for a network with fewer than two such blocks per stage.
    """
    growths = []
    for shares in run["depth"]["shares"]:
        blocks = shares[1:]
        half = len(blocks) // 2
        if half:
            growths.append(np.log10(mean(blocks[-half:]) / mean(blocks[:half])) / 2)
    return float(mean(growths)) if growths else 0.0


def mean_lam(run: Result) -> float:
    """The mean λ_n, each at most `MOST_LAM`; 0 for a plain network."""
    return mean(min(lam, MOST_LAM) for lam in run["coefficients"]) if run["coefficients"] else 0.0


PROPERTIES: dict[str, Callable[[Result], float]] = {
    "effective depth (log2)": lambda run: log2(run["depth"]["effective depth"]),
    "clean accuracy": lambda run: value(run, CLEAN),
    "growth of the gains": gain_growth,
    "mean λ": mean_lam,
}
"""What may explain robustness."""


def fit_runs(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Network -> its runs at scale fit that trained and whose effective depth is known."""
    runs = {
        row: [r for r in trained(select(results, row, "cifar10", TEXT.name, FIT.name)) if r.get("depth") is not None]
        for row in EXPERIMENTS["depth"]
    }
    return {row: of_row for row, of_row in runs.items() if of_row}


def network_table(runs_of: dict[str, list[Result]]) -> str:
    """Per network: fit, clean accuracy, robustness under the paper's attack and a sound one, effective depth, gains."""
    columns: tuple[tuple[str, int, Callable[[Result], float]], ...] = (
        ("training images, last epoch (%)", 1, lambda run: 100 * run["training"]["accuracy"][-1]),
        ("clean (%)", 1, lambda run: value(run, CLEAN)),
        ("noise (%)", 1, lambda run: value(run, NOISE_MEAN)),
        ("PGD 2/255, the paper's (%)", 1, lambda run: value(run, PRINTED_PGD)),
        ("APGD 2/255 (%)", 1, lambda run: value(run, SOUND)),
        ("kept under APGD (%)", 1, lambda run: share(run, SOUND)),
        ("effective depth", 1, lambda run: run["depth"]["effective depth"]),
        ("blocks that matter", 0, lambda run: float(blocks_that_matter(run))),
        ("growth of the gains", 2, gain_growth),
    )
    lines = []
    for row, runs in runs_of.items():
        cells = [_cell(summarize([read(run) for run in runs]), digits) for _, digits, read in columns]
        lines.append([f"{ROWS[row].label}, n = {len(runs)}", *cells])
    return markdown(["network", *(name for name, _, _ in columns)], lines)


def blocks_that_matter(run: Result) -> int:
    """Blocks without which the accuracy falls by more than two standard errors of a difference of accuracies.

    The standard error is that of an accuracy of one half on the images used, which is the largest.
    """
    images, alone = run["depth"]["images"], run["depth"]["accuracy without a block"]
    full = run["depth"]["accuracy"]
    return sum(100 * (full - accuracy) > 2 * sampling_error(images) for accuracy in alone)


def plain_beside(runs_of: dict[str, list[Result]], measure: str, depth: float) -> float | None:
    """A measure of a plain network of a given effective depth, in percent: interpolated between the plain networks.

    None if the effective depth lies outside those of the plain networks.
    """
    points = sorted(
        (mean(log2(run["depth"]["effective depth"]) for run in runs), mean(share(run, measure) for run in runs))
        for row, runs in runs_of.items()
        if row in PLAIN
    )
    if not points or not points[0][0] - 1e-9 <= log2(depth) <= points[-1][0]:
        return None
    return float(np.interp(log2(depth), [x for x, _ in points], [y for _, y in points]))


def beside_plain(runs_of: dict[str, list[Result]], measure: str) -> dict[str, list[float]]:
    """Network -> the share that each run keeps minus that of a plain network of its effective depth, in points."""
    found = {}
    for row, runs in runs_of.items():
        if row in PLAIN:
            continue
        pairs = [(share(r, measure), plain_beside(runs_of, measure, r["depth"]["effective depth"])) for r in runs]
        found[row] = [ours - plain for ours, plain in pairs if plain is not None]
    return found


def intervals(runs_of: dict[str, list[Result]], measure: str) -> Intervals:
    """How the share kept under a measure goes with each property."""
    runs = [run for of_row in runs_of.values() for run in of_row]
    indices = iter(range(len(runs)))
    groups = {row: [next(indices) for _ in of_row] for row, of_row in runs_of.items()}
    x: Floats = np.array([[read(run) for read in PROPERTIES.values()] for run in runs])
    y: Floats = np.array([share(run, measure) for run in runs])

    def correlations(chosen: NDArray[np.int64]) -> Floats:
        return np.array([rank_correlation(column, y[chosen]) for column in x[chosen].T])

    def together(chosen: NDArray[np.int64]) -> Floats:
        return regression(x[chosen], y[chosen])

    alone, joint = bootstrap(groups, correlations), bootstrap(groups, together)
    return dict(zip(PROPERTIES, alone, strict=True)), dict(zip(PROPERTIES, joint, strict=True))


def correlation_table(found: dict[str, Intervals]) -> str:
    """Per property: its rank correlation with each kind of robustness.

    Args:
        found: measure -> `intervals`.
    """
    return _property_table({measure: alone for measure, (alone, _) in found.items()})


def regression_table(found: dict[str, Intervals]) -> str:
    """Per property: its coefficient at equal values of the other properties."""
    return _property_table({measure: joint for measure, (_, joint) in found.items()})


def _property_table(by_measure: dict[str, dict[str, Interval]]) -> str:
    lines = [[name, *(str(of_measure[name]) for of_measure in by_measure.values())] for name in PROPERTIES]
    return markdown(["property", *(f"share kept, {ROBUSTNESS[measure]}" for measure in by_measure)], lines)


def _cell(summary: Summary | None, digits: int) -> str:
    assert summary is not None
    spread = "" if summary.sd is None else f" ± {summary.sd:.{digits}f}"
    return f"{summary.mean:.{digits}f}{spread}".replace("-", "−")
