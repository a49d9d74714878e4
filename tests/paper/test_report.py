"""The report's arithmetic, its verdicts, and that docs/paper.md is what the results give."""

from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch

from benchmarks.paper import figures, landscapes
from benchmarks.paper import render as report
from benchmarks.paper import results_file as store
from benchmarks.paper.claims import CLAIMS, RUNS, judged
from benchmarks.paper.jobs import Job, job_named
from benchmarks.paper.measure import KEYS, NOISES
from benchmarks.paper.rows import ROWS, needs
from benchmarks.paper.settings import CODE, FULL, SMALL, TEXT
from benchmarks.paper.summaries import measured, plain_at, printed, share, value
from benchmarks.paper.tables import beside_plain, columns_of, paper_table
from tests.helpers import ROOT

PAGE = ROOT / "docs" / "paper.md"


def result(
    row, seeds=(0,), dataset="cifar10", level=0.9, scale=FULL, protocol=TEXT, failed=False, coefficients=(0.2,) * 51
):
    """A made-up result: clean accuracy ``level``, the others by fixed shares of it."""
    accuracy = {key: level * (1 - 0.02 * k) for k, key in enumerate(KEYS)}
    accuracy |= {kind: [level * s for s in (0.9, 0.8, 0.7, 0.6, 0.5)] for kind in NOISES}
    config = Job(ROWS[row], dataset, seeds, protocol, scale).config
    return {"config": config, "failed": failed, "accuracy": accuracy, "coefficients": list(coefficients)}


def test_the_page_is_in_sync():
    assert PAGE.read_text(encoding="utf-8") == report.page(report.load(store.RESULTS)), (
        "docs/paper.md is behind the results: python benchmarks/paper/render.py"
    )


def test_results_under_settings_of_another_time_are_not_rendered(tmp_path):
    now = result("resnet-110", scale=SMALL)
    store.write(tmp_path / "resnet-110_cifar10_small_text_seed0.json", now["config"], {"failed": False})
    assert len(report.load(tmp_path)) == 1
    then = result("cnn-110", scale=replace(SMALL, epochs=3))
    store.write(tmp_path / "cnn-110_cifar10_small_text_seed0.json", then["config"], {"failed": False})
    with pytest.raises(ValueError, match=r"recipe\.epochs was 3, now it is \d+"):
        report.load(tmp_path)
    gone = result("cnn-110", scale=replace(SMALL, name="tiny"))
    with pytest.raises(ValueError, match="must be of a row, protocol and scale that there are, got 'tiny'"):
        job_named(gone["config"])


def test_without_results_every_row_is_not_run():
    text = report.page([])
    assert "ours (" not in text
    for number in range(1, 9):
        rows = paper_table(number, []).splitlines()[2:]
        assert len(rows) == 2 * len({(entry_row(line)) for line in rows[::2]})
        assert all("not run" in line for line in rows[1::2])
    assert "holds" not in "".join(line[3] + line[4] for line in judged([]))


def test_what_was_measured_comes_first_and_the_rest_is_folded():
    text = report.page([result("resnet-110", scale=SMALL)])
    assert text.index("## Small scale") < text.index("## Full scale: claims") < text.index("### Table 1")
    assert text.count("<details>") == text.count("</details>") == 1 + 8
    text = report.page([result("resnet-110")])  # in all tables but 7, which is of CIFAR-100
    assert [n for n in range(1, 9) if f"<summary>The paper's Table {n}; ours: not run" in text] == [7]


def entry_row(line):
    return line.split(" | ")[0]


def test_means_and_deviations():
    runs = [result("resnet-110", (seed,), level=level) for seed, level in enumerate((0.8, 0.9, 0.97))]
    values = measured(runs, "text", "full")
    summary = values("resnet-110", "cifar10", "acc", False)
    assert (summary.mean, summary.sd, summary.n) == (pytest.approx(89), pytest.approx(stdev((80, 90, 97))), 3)
    assert value(runs[0], "noise") == pytest.approx(100 * 0.8 * 0.7)
    assert share(runs[0], "noise") == pytest.approx(70)
    attacked = runs[0]["accuracy"]["acc attacked"]
    assert share(runs[0], "pgd 2/255") == pytest.approx(100 * runs[0]["accuracy"]["pgd 2/255"] / attacked)
    (line,) = (x for x in paper_table(2, runs).splitlines() if "ours (text)" in x)
    assert line.startswith(
        f"|  | ours (text), n = 3 | {mean((80, 90, 97)):.2f} ± {stdev((80, 90, 97)):.2f} | not run |"
    )


def test_runs_stand_beside_plain_ones_as_accurate():
    """Made-up runs keep fixed shares: the plain curve is a line through 0, and the damped run lies 0.1 of it above."""
    plain = [result(f"resnet-110-short{share:g}", level=level) for share, level in ((0.15, 0.4), (0.5, 0.6))]
    damped = [result("in_resnet-110", (seed,), level=level) for seed, level in enumerate((0.3, 0.5, 0.7))]
    for run in damped:
        run["accuracy"]["pgd 2/255"] += 0.1
    runs = [*plain, *damped]
    assert plain_at(runs, "noise", 50) == pytest.approx(50 * 0.7)
    assert plain_at(runs, "noise", 39) is plain_at(runs, "noise", 61) is plain_at(damped, "noise", 50) is None
    (line,) = beside_plain(["in_resnet-110", "cnn-110"], runs).splitlines()[2:]
    of_pgd = 100 * plain[0]["accuracy"]["pgd 2/255"] / 0.4 * 0.5
    assert line.startswith("| In-ResNet-110, n = 1 of 3 | 50.00 | 35.0 − 35.0 = 0.00 |")
    assert line.endswith(f"| {of_pgd + 10:.1f} − {of_pgd:.1f} = 10.00 |")
    assert beside_plain(["in_resnet-110"], damped) == "Not run."


def test_failed_runs_are_counted_apart():
    runs = [result("resnet-110", (seed,), level=0.9) for seed in (0, 1)]
    runs.append(result("resnet-110", (2,), level=0.1, failed=True))
    assert measured(runs, "text", "full")("resnet-110", "cifar10", "acc", False).mean == pytest.approx(90)
    assert "n = 2, 1 failed | 90.00 ± 0.00" in paper_table(2, runs)
    assert "n = 0, 1 failed | failed" in paper_table(2, runs[2:])


def test_scales_protocols_and_ensembles_never_mix():
    runs = [
        result("resnet-110", level=0.9),
        result("resnet-110", level=0.5, scale=SMALL),
        result("resnet-110", level=0.6, protocol=CODE),
        result("resnet-110", (0, 1), level=0.95),
    ]
    cell = "resnet-110", "cifar10", "acc"
    assert measured(runs, "text", "full")(*cell, False).mean == pytest.approx(90)
    assert measured(runs, "text", "full")(*cell, True).mean == pytest.approx(95)
    assert measured(runs, "code", "full")(*cell, False).mean == pytest.approx(60)
    assert measured(runs, "code", "small")(*cell, False) is None
    small = columns_of(["resnet-110", "cnn-110"], runs, "cifar10", "text", "small")
    assert "| ResNet-110, n = 1 | 50.00 |" in small
    assert "| CNN-110 (no shortcuts), n = 0 | not run |" in small
    assert "90.00" not in small


def test_verdicts_take_enough_runs_at_full_scale():
    def of(runs):
        return {line[1]: line[3] for line in judged(runs)}

    drop = "In-ResNet-110, CIFAR-10: accuracy drops by at most 3 points"

    def runs(damped, n, scale=FULL):
        pairs = (("resnet-110", 0.93), ("in_resnet-110", damped))
        return [result(row, (seed,), level=level, scale=scale) for row, level in pairs for seed in range(n)]

    assert of(runs(0.91, RUNS))[drop] == "holds (93.00, 91.00)"
    assert of(runs(0.89, RUNS))[drop] == "does not hold (93.00, 89.00)"
    assert of(runs(0.91, RUNS - 1))[drop] == "too few runs (93.00, 91.00)"
    assert of(runs(0.91, RUNS, SMALL))[drop] == "not run"


def test_the_print_bears_its_claims_out_but_one():
    verdicts = [(claim.text, claim.judge(printed, "not printed", 1)[0]) for claim in CLAIMS]
    assert {verdict for _, verdict in verdicts} == {"holds", "does not hold"}
    assert [text for text, verdict in verdicts if verdict == "does not hold"] == [
        "In-ResNet-164, CIFAR-100: accuracy drops by at most 3 points"  # 76.06 to 72.94
    ]


def test_coefficients_cnns_and_failures_are_counted():
    lam = [0.5] * 40 + [0.005] * 10 + [2.5]
    runs = [result("in_resnet-110", (seed,), coefficients=lam) for seed in range(3)]
    runs += [result("cnn-110", (seed,), level=0.1, failed=True) for seed in range(3)]
    runs += [result("in_resnet-110-0.3-0.4", (seed,), failed=seed == 1) for seed in range(5)]
    told = {line[1]: line[3] for line in judged(runs)}
    assert told["In-ResNet-110, CIFAR-10: most λ_n (over half) lie in [0, 1]"] == "holds (98.0% of 51)"
    assert told["In-ResNet-110, CIFAR-10: very few λ_n (under 5%) exceed 2"] == "holds (2.0% of 51)"
    assert told["In-ResNet-110, CIFAR-10: most λ_n (over half) exceed 0.01"] == "holds (80.4% of 51)"
    assert told["In-ResNet-110, CIFAR-10: more accurate than the CNN of its depth"] == "holds (10.00, 90.00)"
    assert told["In-ResNet-110, CIFAR-10: some runs from U[0.3, 0.4] fail"] == "holds (1 of 5)"


def test_figures_are_drawn_where_their_networks_are_there(tmp_path):
    runs = [result(name, (0,), coefficients=[0.1] * 51) for name, _, _ in needs("figure1")]
    assert figures.drawable(1, runs, "text")
    assert not figures.drawable(1, runs, "code")
    assert not figures.drawable(1, runs[:1], "text")
    assert not figures.drawable(1, [result("in_resnet-110", scale=SMALL), runs[1]], "text")
    figures.draw(1, runs, "text", tmp_path / "figure1.png")
    ensembles = [result(n, (0, 1) if e else (0,), d, 0.95 if e else 0.9) for n, d, e in needs("figure8")]
    assert figures.drawable(8, ensembles, "text")
    figures.draw(8, ensembles, "text", tmp_path / "figure8.png")
    rng = torch.Generator().manual_seed(0)
    grid = (1, len(landscapes.AXIS), len(landscapes.AXIS))
    around = {
        "along": landscapes.AXIS,
        "across": landscapes.AXIS,
        "labels": [3],
        "loss": torch.rand(grid, generator=rng).tolist(),
        "prediction": torch.ones(grid, dtype=torch.int64).tolist(),
    }
    pair = [result(name) | {"landscapes": [around, around]} for name, _, _ in needs("figure2")]
    assert figures.drawable(2, pair, "text")
    assert not figures.drawable(2, [pair[0], result("in_resnet-110")], "text")
    figures.draw(2, pair, "text", tmp_path / "figure2.png")
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
    text = report.figure_list(runs)
    assert "![Figure 1](paper_figure1_text.png)" in text
    assert text.count("not drawn") == 7
