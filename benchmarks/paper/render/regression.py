"""Which property of a network its robustness follows: rank correlations and a regression, with bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["Interval", "bootstrap", "rank_correlation", "regression"]

Floats = NDArray[np.float64]
DRAWS = 2_000
LEVEL = 95
"""Percent of the bootstrap's draws in an interval."""


class Interval(NamedTuple):
    """An estimate and the interval that holds `LEVEL` percent of its bootstrap draws."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}]".replace("-", "−")


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation of two vectors (n,); 0 if one of them is constant."""
    return _correlation(rankdata(x), rankdata(y))


def regression(x: Floats, y: Floats) -> Floats:
    """Coefficients b of least squares, y = Σ_k b_k x_k + ..., all variables standardized.

    A variable that is constant, as may happen in a bootstrap draw, has coefficient 0.

    Args:
        x: (n, k).
        y: (n,).

    Returns:
        (k,): standard deviations of y per standard deviation of x_k, at equal values of the others.
    """
    return np.asarray(np.linalg.lstsq(_standardized(x), _standardized(y[:, None])[:, 0], rcond=None)[0], np.float64)


def bootstrap(
    groups: Mapping[str, Sequence[int]], statistic: Callable[[NDArray[np.int64]], Floats], seed: int = 0
) -> list[Interval]:
    """Intervals of a statistic of runs that come in groups: networks are drawn anew, then the runs of each.

    Args:
        groups: network -> indices of its runs.
        statistic: indices of runs, repetitions included -> (k,).
        seed: of the draws.

    Returns:
        One interval for each of the k numbers.
    """
    rng = np.random.default_rng(seed)
    indices = [np.array(of_group) for of_group in groups.values()]
    draws = []
    for _ in range(DRAWS):
        chosen = [indices[k] for k in rng.integers(len(indices), size=len(indices))]
        draws.append(statistic(np.concatenate([rng.choice(runs, len(runs)) for runs in chosen])))
    ends = np.percentile(np.array(draws), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    estimates = statistic(np.concatenate(indices))
    return [Interval(*map(float, each)) for each in zip(estimates, *ends, strict=True)]


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def _standardized(x: Floats) -> Floats:
    """Columns of mean 0 and variance 1; constant columns become 0."""
    centered, spread = x - x.mean(0), x.std(0)
    found: Floats = np.where(spread > 0, centered / np.where(spread > 0, spread, 1), 0)
    return found
