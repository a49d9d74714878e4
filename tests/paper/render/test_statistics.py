"""Means, deviations and shares over runs; what they are compared with."""

from statistics import mean, stdev

import pytest

from benchmarks.paper.plan.protocols import CODE, SMALL
from benchmarks.paper.render.statistics import our_means, plain_at, share, value
from benchmarks.paper.render.tables import accuracy_table, paper_table, table_against_plain
from tests.paper.render.made_up import made_up


def test_means_and_deviations():
    runs = [made_up("resnet-110", (seed,), level=level) for seed, level in enumerate((0.8, 0.9, 0.97))]
    summary = our_means(runs, "text", "full")("resnet-110", "cifar10", "acc", False)
    assert (summary.mean, summary.sd, summary.n) == (pytest.approx(89), pytest.approx(stdev((80, 90, 97))), 3)
    assert value(runs[0], "noise") == pytest.approx(100 * 0.8 * 0.7)
    assert share(runs[0], "noise") == pytest.approx(70)
    attacked = runs[0]["accuracy"]["acc attacked"]
    assert share(runs[0], "pgd 2/255") == pytest.approx(100 * runs[0]["accuracy"]["pgd 2/255"] / attacked)
    (line,) = (x for x in paper_table(2, runs).splitlines() if "ours (text)" in x)
    assert line.startswith(
        f"|  | ours (text), n = 3 | {mean((80, 90, 97)):.2f} ± {stdev((80, 90, 97)):.2f} | not run |"
    )


def test_runs_are_compared_with_plain_ones_of_their_accuracy():
    """Made-up runs keep fixed shares: the plain curve is a line through 0, and the damped run lies 0.1 above it."""
    plain = [made_up(f"resnet-110-short{share:g}", level=level) for share, level in ((0.15, 0.4), (0.5, 0.6))]
    damped = [made_up("in_resnet-110", (seed,), level=level) for seed, level in enumerate((0.3, 0.5, 0.7))]
    for run in damped:
        run["accuracy"]["pgd 2/255"] += 0.1
    runs = [*plain, *damped]
    assert plain_at(runs, "noise", 50) == pytest.approx(50 * 0.7)
    assert plain_at(runs, "noise", 39) is plain_at(runs, "noise", 61) is plain_at(damped, "noise", 50) is None
    (line,) = table_against_plain(["in_resnet-110", "cnn-110"], runs).splitlines()[2:]
    of_pgd = 100 * plain[0]["accuracy"]["pgd 2/255"] / 0.4 * 0.5
    assert line.startswith("| In-ResNet-110, n = 1 of 3 | 50.00 | 35.0 − 35.0 = 0.00 |")
    assert line.endswith(f"| {of_pgd + 10:.1f} − {of_pgd:.1f} = 10.00 |")
    assert table_against_plain(["in_resnet-110"], damped) == "Not run."


def test_failed_runs_are_counted_apart():
    runs = [made_up("resnet-110", (seed,), level=0.9) for seed in (0, 1)]
    runs.append(made_up("resnet-110", (2,), level=0.1, failed=True))
    assert our_means(runs, "text", "full")("resnet-110", "cifar10", "acc", False).mean == pytest.approx(90)
    assert "n = 2, 1 failed | 90.00 ± 0.00" in paper_table(2, runs)
    assert "n = 0, 1 failed | failed" in paper_table(2, runs[2:])


def test_scales_protocols_and_ensembles_never_mix():
    runs = [
        made_up("resnet-110", level=0.9),
        made_up("resnet-110", level=0.5, scale=SMALL),
        made_up("resnet-110", level=0.6, protocol=CODE),
        made_up("resnet-110", (0, 1), level=0.95),
    ]
    cell = "resnet-110", "cifar10", "acc"
    assert our_means(runs, "text", "full")(*cell, False).mean == pytest.approx(90)
    assert our_means(runs, "text", "full")(*cell, True).mean == pytest.approx(95)
    assert our_means(runs, "code", "full")(*cell, False).mean == pytest.approx(60)
    assert our_means(runs, "code", "small")(*cell, False) is None
    small = accuracy_table(["resnet-110", "cnn-110"], runs, "cifar10", "text", "small")
    assert "| ResNet-110, n = 1 | 50.00 |" in small
    assert "| CNN-110 (no shortcuts), n = 0 | not run |" in small
    assert "90.00" not in small
