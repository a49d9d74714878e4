"""The tables between the words of the reading."""

from benchmarks.paper import results_file
from benchmarks.paper.plan.protocols import SMALL
from benchmarks.paper.render import reading
from tests.paper.render.made_up import made_up

SMALL_CONFIG = made_up("resnet-110", scale=SMALL)["config"]["scale"]


def run(row, seed=0, **settings):
    return made_up(row, (seed,), scale=SMALL, **settings)


def test_tables_hold_the_numbers_of_the_runs():
    plain = [run("resnet-110-short0.15", level=0.4), run("resnet-110", level=0.6)]
    damped = [
        run("in_resnet-110", seed, level=level, coefficients=[0.0, 0.2, 3.0]) for seed, level in enumerate((0.3, 0.5))
    ]
    damped[1]["accuracy"]["pgd 2/255"] += 0.1
    kept = reading.kept_table({"resnet-110": plain[1:], "cnn-110": []}).splitlines()
    assert kept[2].startswith("| ResNet-110 | 1 | 60.0 | 42.0 | 70 | ")
    assert kept[2].endswith("| 1.00 | 0.000 |")
    advantage = reading.advantage_table({"in_resnet-110": damped}, plain).splitlines()
    assert advantage[2] == "| In-ResNet-110 | yes | 1 of 2 | 0.0 | 10.0 |"
    coefficients = reading.coefficient_table(damped).splitlines()
    assert coefficients[2].startswith("| 0 | 1 of 3 | 1 of 3 | 3 | 30.0 | 30.0 |")
    decay = reading.decay_table({"in_resnet-110": damped, "in_resnet-110-nodecay": []}).splitlines()
    assert decay[2:] == ["| In-ResNet-110 | with | 2 of 2 | 40.00 ± 14.14 | 3 |"]
    failed = reading.failed_table([run("cnn-110", level=0.1, failed=True)]).splitlines()
    assert failed[2] == "| CNN-110 (no shortcuts) | 0 | 10.0 | 10.0 |"


def test_the_words_hold_of_the_stored_results():
    """What reading.md says in words, asked of the results."""
    stored = results_file.read_current(results_file.RESULTS)
    results = [result for result in stored if result["config"]["scale"] == SMALL_CONFIG]
    named = {
        row: [r for r in results if r["config"]["row"] == row and not r["failed"]]
        for row in (r["config"]["row"] for r in results)
    }
    plain = [
        run
        for row in ("resnet-110-short0.15", "resnet-110-short0.25", "resnet-110-short0.5", "resnet-110")
        for run in named[row]
    ]

    def advantages(row, measure):
        found = [reading._advantage(run, measure, plain) for run in named[row]]
        return [x for x in found if x is not None]

    for measure in (reading.NOISE_MEAN, reading.PGD):
        trained = [x for row in reading.TRAINED_LAM for x in advantages(row, measure)]
        assert len(trained) == 8
        assert min(trained) > 0  # every run with trained λ is more robust
    mean = {
        row: sum(advantages(row, reading.PGD)) / len(advantages(row, reading.PGD))
        for row in (*reading.TRAINED_LAM, *reading.FIXED_LAM)
    }
    smaller = [mean[row] for row in ("in_resnet-110-frozen", "in_resnet-110-gains", "lambda_in_resnet-110-frozen")]
    assert max(smaller) < min(mean[row] for row in reading.TRAINED_LAM)
    assert mean["lambda_in_resnet-110-gains"] > min(
        mean[row] for row in reading.TRAINED_LAM
    )  # as large as with trained λ
    worst = next(run for run in named["in_resnet-110"] if run["config"]["seeds"] == [1])
    assert reading.value(worst, "acc") == min(reading.value(run, "acc") for run in named["in_resnet-110"])
    assert all(
        reading.share(worst, reading.PGD) < reading.share(run, reading.PGD) for run in named["resnet-110-short0.15"]
    )
    losses = [reading._last_fall(run) for row in ("resnet-110", *reading.TRAINED_LAM[:2]) for run in named[row]]
    assert max(losses) < 0.05  # a plateau
