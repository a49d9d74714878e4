"""Rank correlation, regression and bootstrap intervals."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.paper.render.regression import Interval, bootstrap, rank_correlation, regression

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
GROUPS = {str(k): list(range(6 * k, 6 * k + 6)) for k in range(10)}


def test_the_rank_correlation_is_spearmans_with_ties_too():
    x, y = np.round(X[:, 0], 1), X[:, 0] + X[:, 1]
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0


def test_the_regression_finds_the_property_that_counts():
    y = 3 * X[:, 1] - 0.5 * X[:, 2] + 7
    expected = np.array([0, 3 * X[:, 1].std(), -0.5 * X[:, 2].std()]) / y.std()
    np.testing.assert_allclose(regression(X, y), expected, atol=1e-12)
    constant = X.copy()
    constant[:, 0] = 4
    np.testing.assert_allclose(regression(constant, y), expected, atol=1e-12)


def test_intervals_hold_what_is_there_and_exclude_zero_only_then():
    y = X[:, 1] + rng.normal(size=60)
    found = bootstrap(GROUPS, lambda chosen: regression(X[chosen], y[chosen]))
    assert [interval.excludes_zero for interval in found] == [False, True, False]
    assert all(interval.low <= interval.estimate <= interval.high for interval in found)
    assert found == bootstrap(GROUPS, lambda chosen: regression(X[chosen], y[chosen]))
    assert str(Interval(-0.5, -1, 0.25)) == "−0.50 [−1.00, 0.25]"


def test_the_runs_of_one_network_are_not_independent():
    """All runs of a network are equal here: the interval is that of ten networks, not of sixty runs."""
    level = np.repeat(rng.normal(size=10), 6)
    (of_groups,) = bootstrap(GROUPS, lambda chosen: level[chosen].mean(keepdims=True))
    (of_runs,) = bootstrap({str(k): [k] for k in range(60)}, lambda chosen: level[chosen].mean(keepdims=True))
    assert of_groups.high - of_groups.low > 1.8 * (of_runs.high - of_runs.low)
