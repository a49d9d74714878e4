"""The tables and the verdict of scale fit."""

from math import log2

import pytest

from benchmarks.paper.plan.protocols import FIT, SMALL
from benchmarks.paper.plan.targets import EXPERIMENTS
from benchmarks.paper.render import depth_study, figures
from benchmarks.paper.render.fit_section import (
    accuracy_verdict,
    depth_verdict,
    enough,
    fit_section,
    property_verdict,
    shallow_verdict,
)
from benchmarks.paper.render.regression import Interval
from benchmarks.paper.render.summary import summary
from tests.paper.render.made_up import made_up

DEPTHS = dict(zip(EXPERIMENTS["depth"], (90, 20, 15, 8, 13, 18, 28, 50, 22, 20, 30, 17, 15, 25), strict=True))


def fit_run(row, seed=0, kept=None, level=0.8, depth=None):
    """A run that keeps 90 - 10 log2(depth) percent under noise and APGD, unless ``kept`` is given."""
    depth = DEPTHS[row] + 0.1 * seed if depth is None else depth
    run = made_up(row, (seed,), level=level, scale=FIT)
    share = 0.9 - 0.1 * log2(depth) if kept is None else kept
    accuracy = {"acc": level, "acc attacked": level, "fgsm 2/255": 0.3, "pgd 2/255": 0.3}
    accuracy |= {"apgd-ce 2/255": share * level}
    accuracy |= {kind: [share * level] * 5 for kind in ("impulse", "speckle", "gaussian", "shot")}
    measured = {
        "images": 500,
        "accuracy": level,
        "effective depth": float(depth),
        "shares": [[0.4, 0.1, 0.1, 0.2, 0.2]] * 3,
        "accuracy without a block": [level, level - 0.01, level - 0.2],
        "accuracy without later blocks": [0.5, 0.5, level],
    }
    return run | {"accuracy": accuracy, "depth": measured, "coefficients": [] if row.startswith("resnet") else [0.1, 9]}


def study(**changes):
    return [fit_run(row, seed, **changes) for row in EXPERIMENTS["depth"] for seed in range(3)]


def test_properties_are_read_from_a_run():
    run = fit_run("in_resnet-110", depth=16)
    read = {name: of_run(run) for name, of_run in depth_study.PROPERTIES.items()}
    assert read == {
        "effective depth (log2)": 4,
        "clean accuracy": pytest.approx(80),
        "growth of the gains": pytest.approx(0.1505, abs=1e-4),  # log10 of sqrt(0.2 / 0.1)
        "mean λ": pytest.approx(1.05),  # 9 counts as 2
    }
    assert depth_study.blocks_that_matter(run) == 1
    flat = run | {"depth": run["depth"] | {"shares": [[1.0]] * 3}}
    assert depth_study.gain_growth(flat) == 0


def test_runs_are_compared_with_a_plain_network_of_their_depth():
    runs_of = depth_study.fit_runs([*study(), fit_run("in_resnet-110", 3, kept=0.9, depth=30)])
    at_30 = depth_study.plain_beside(runs_of, depth_study.SOUND, 30)
    assert at_30 == pytest.approx(90 - 10 * log2(30), abs=0.1)
    assert depth_study.plain_beside(runs_of, depth_study.SOUND, 7.9) is None
    assert depth_study.plain_beside(runs_of, depth_study.SOUND, 91) is None
    differences = depth_study.beside_plain(runs_of, depth_study.SOUND)
    assert set(differences) == {row for row in DEPTHS if row not in depth_study.PLAIN}
    *same, more = differences["in_resnet-110"]
    assert max(map(abs, same)) < 0.1
    assert more == pytest.approx(90 - at_30)


def test_robustness_that_follows_depth_is_found():
    runs_of = depth_study.fit_runs(study())
    alone, _ = depth_study.intervals(runs_of, depth_study.SOUND)
    assert alone["effective depth (log2)"].estimate == pytest.approx(-1)
    assert alone["effective depth (log2)"].excludes_zero
    assert alone["clean accuracy"] == Interval(0, 0, 0)


def test_a_verdict_needs_three_runs_of_every_network():
    runs = study()
    assert enough(depth_study.fit_runs(runs))
    text = fit_section(runs)
    assert "Under APGD 2/255, the share kept follows effective depth (log2) (less is more robust)" in text
    assert "runs are complete" not in text
    assert "- Beside ResNet-110, In-ResNet-110 is" in summary(runs)
    fewer = fit_section(runs[:-1])
    assert "41 of the 42 runs are complete" in fewer
    assert "No verdict yet" in fewer
    assert "scale fit lacks runs" in summary(runs[:-1])
    assert fit_section([]).endswith("Not run.")


def test_only_runs_of_scale_fit_that_trained_are_read():
    failed = fit_run("resnet-8") | {"failed": True}
    assert depth_study.fit_runs([failed, made_up("resnet-110", scale=SMALL)]) == {}


def test_verdicts_name_what_excludes_zero():
    yes, no = Interval(-0.5, -0.8, -0.1), Interval(0.3, -0.1, 0.6)
    text = property_verdict("noise", {"depth": yes, "λ": no}, {"depth": no, "λ": no})
    assert text.startswith("Under noise, the share kept follows depth (less is more robust). At equal")
    assert text.endswith("cannot tell the properties apart.")
    text = depth_verdict("noise", {"in_resnet-110": [1.0, 2.0], "lambda_in_resnet-110": [-1.0, 2.0]})
    assert text.endswith("under noise: 1 of 2 networks keep more in every run; 0 keep less in every run.")
    assert "no run has the effective depth" in depth_verdict("noise", {"in_resnet-110": []})


def test_the_figure_is_drawn(tmp_path):
    figures.draw_depth(depth_study.fit_runs(study()), tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 5000


def test_a_difference_counts_beyond_two_standard_errors():
    runs = [fit_run("resnet-110", seed, kept=kept) for seed, kept in enumerate((0.50, 0.51, 0.52))]
    runs += [fit_run("in_resnet-110", seed, kept=kept) for seed, kept in enumerate((0.60, 0.61, 0.62))]
    runs += [fit_run("lambda_in_resnet-110", seed, kept=kept) for seed, kept in enumerate((0.3, 0.5, 0.7))]
    text = " ".join(accuracy_verdict(depth_study.fit_runs(runs)))
    assert "In-ResNet-110 is more accurate under noise (+8.0 ± 0.7 points) and more accurate under APGD" in text
    assert "λ-In-ResNet-110 is not told apart under noise (−0.8 ± 9.2 points)" in text


def test_shallow_networks_that_keep_more_are_named():
    """In the study shallow networks keep more."""
    text = shallow_verdict(depth_study.fit_runs(study()))
    assert text.startswith(
        "Shallow plain networks that keep more than ResNet-110: ResNet-8 under noise, ResNet-8 under"
    )
    same = [fit_run(row, seed, kept=0.7 + 0.01 * seed) for row in EXPERIMENTS["depth"] for seed in range(3)]
    assert shallow_verdict(depth_study.fit_runs(same)).startswith("No plain network of depth 8 to 56 keeps more")
