"""A job resumes, is never computed twice, never mixes settings, and needs the members of an ensemble."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from benchmarks.paper import results_file
from benchmarks.paper.__main__ import OutOfTime
from benchmarks.paper.run import complete_job, measure
from dampode import training
from dampode.data import Augmentation, pixels
from dampode.robustness import PGD, DrawnNoise, Report
from dampode.training import Execution
from tests.paper.toy import TEXT, TOY, bytes_of, never_called, numbers, toy_job


@pytest.fixture(autouse=True)
def _no_run_fails(monkeypatch):
    monkeypatch.setattr(complete_job, "CHANCE", -1.0)  # two steps of training do not lift a network above chance


def test_a_result_says_all(finished):
    out, results, result = finished
    assert set(result["accuracy"]) == set(measure.COLUMNS)
    assert [len(result["accuracy"][kind]) for kind in measure.NOISES] == [5] * 4
    assert len(result["coefficients"]) == 3
    assert len(result["training"]["loss"]) == TOY.epochs
    assert result["config"]["protocol"]["pgd"] == f"PGD(alpha={2 / 255}, steps=2, restarts=1, keep='last')"
    assert result["config"]["recipe"]["epochs"] == 2
    assert result["provenance"]["command"] == "command"
    assert (result["members"], result["landscapes"]) == ([], [])
    assert {p.name for p in results.iterdir()} == {"lambda_in_resnet-110_cifar10_toy_text_seed0.json"}
    assert not list(out.glob("*.partial.json"))


def test_a_result_holds_the_reports_that_its_columns_are_read_from(finished):
    result = finished[2]
    found = measure.Reports(**{name: Report.from_json(json.dumps(r)) for name, r in result["reports"].items()})
    assert measure.columns(found) == result["accuracy"]
    assert (len(found.noise.column("shot_noise", 5).correct), len(found.attacks.column("PGD", 1 / 255).correct)) == (
        16,
        8,
    )


def test_nothing_is_computed_twice(finished, images, monkeypatch):
    out, results, result = finished
    monkeypatch.setattr(training, "fit", never_called)
    monkeypatch.setattr(complete_job, "reports", never_called)
    before = bytes_of(results)
    assert complete_job.complete(toy_job(), images, out, results, "another command") == result
    assert bytes_of(results) == before


def test_interrupted_training_and_measuring_end_in_the_same_numbers(finished, images, tmp_path, monkeypatch):
    fit, block, attack = training.fit, DrawnNoise.block, PGD.__call__
    calls = []

    def complete():
        return complete_job.complete(toy_job(), images, tmp_path / "out", tmp_path / "results", "")

    def stops_after_an_epoch(model, data, recipe, **keywords):
        class Stops(Augmentation):
            calls = 0

            def draw(self, n, generator):
                Stops.calls += 1
                if Stops.calls == 2:  # one batch per epoch
                    raise OutOfTime
                return super().draw(n, generator)

        return fit(model, data, replace(recipe, augmentation=Stops()), **keywords)

    def stops_at_the_fifth(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise OutOfTime
        return block(self, *arguments)

    def stops(self, *arguments):
        raise OutOfTime

    monkeypatch.setattr(training, "fit", stops_after_an_epoch)
    with pytest.raises(OutOfTime):
        complete()
    monkeypatch.setattr(training, "fit", fit)

    monkeypatch.setattr(DrawnNoise, "block", stops_at_the_fifth)
    with pytest.raises(OutOfTime):
        complete()
    assert [path.name for path in (tmp_path / "out").glob("*.partial.json")] == [f"{toy_job().stem}.noise.partial.json"]

    monkeypatch.setattr(DrawnNoise, "block", lambda self, *a: calls.append(a) or block(self, *a))
    monkeypatch.setattr(PGD, "__call__", stops)
    calls.clear()
    with pytest.raises(OutOfTime):
        complete()
    assert len(calls) == 4 * 5 - 4  # one block per noise and severity, four of them finished before
    assert len(list((tmp_path / "out").glob("*.partial.json"))) == 2
    assert not list((tmp_path / "results").glob("*.json"))

    monkeypatch.setattr(DrawnNoise, "block", never_called)
    monkeypatch.setattr(PGD, "__call__", attack)
    assert numbers(complete()) == numbers(finished[2])
    assert not list((tmp_path / "out").glob("*.partial.json"))


def test_settings_never_mix(finished, images, tmp_path):
    out, results, _ = finished
    before = bytes_of(results)
    for other, setting in (
        (replace(TOY, epochs=3), r"recipe\.epochs is 2 there and 3 here"),
        (replace(TOY, attacked_images=9), r"scale\.attacked_images is 8 there and 9 here"),
    ):
        with pytest.raises(ValueError, match=f"{setting}.*results are never mixed"):
            complete_job.complete(toy_job(scale=other), images, out, results, "")
    with pytest.raises(ValueError, match=r"protocol\.normalized_per_file is False there and True here"):
        complete_job.complete(toy_job(protocol=replace(TEXT, normalized_per_file=True)), images, out, results, "")
    with pytest.raises(ValueError, match=r"recipe\.epochs is 2 there and 3 here"):  # the checkpoint alone
        complete_job.complete(toy_job(scale=replace(TOY, epochs=3)), images, out, tmp_path, "")
    assert bytes_of(results) == before
    assert not list(tmp_path.iterdir())


def test_a_complete_result_is_measured_a_second_time_where_its_weights_were_kept(finished, images, tmp_path):
    out, results, _ = finished
    elsewhere = tmp_path / "results"
    shutil.copytree(results, elsewhere)
    before = bytes_of(results)
    assert not complete_job.complete_sound(toy_job(), images, tmp_path / "nowhere", elsewhere, "")
    path = results_file.sound_path(elsewhere, toy_job())
    assert not path.exists()
    assert complete_job.complete_sound(toy_job(), images, out, elsewhere, "second")
    report = Report.from_json(json.dumps(results_file.read_for(path, toy_job())["report"]))
    assert len(report.column("APGD-CE", 1 / 255).correct) == 8
    assert report.column("PGD", 1 / 255).settings == str(measure.SOUND_ATTACKS["PGD"])
    assert bytes_of(results) == before


def test_an_ensemble_is_of_its_members(finished, images):
    out, results, _ = finished
    pair = toy_job((0, 1))
    with pytest.raises(ValueError, match=r"seed1\.json does not exist; run"):
        complete_job.complete(pair, images, out, results, "")
    complete_job.complete(toy_job((1,)), images, out, results, "")
    result = complete_job.complete(pair, images, out, results, "")
    assert (result["members"], result["training"], result["coefficients"]) == ([0, 1], None, [])
    members = [complete_job.trained(toy_job((seed,)), images, out, Execution())[0].eval() for seed in (0, 1)]
    x = pixels(images.x_test)
    with torch.no_grad():
        right = sum(m(x).softmax(1) for m in members).argmax(1) == images.y_test
    assert result["accuracy"]["acc"] == right.double().mean().item()
    complete_job.checkpoint(toy_job((1,)), out).unlink()
    (results / f"{pair.stem}.json").unlink()
    with pytest.raises(ValueError, match=r"seed1\.pt does not exist"):
        complete_job.complete(pair, images, out, results, "")
    (results / f"{toy_job((1,)).stem}.json").unlink()  # other tests share the folder


def test_an_ensemble_of_failed_runs_has_failed(images, tmp_path, monkeypatch):
    monkeypatch.setattr(complete_job, "CHANCE", 10.0)
    for seed in (0, 1):
        complete_job.complete(toy_job((seed,)), images, tmp_path, tmp_path / "results", "")
    result = complete_job.complete(toy_job((0, 1)), images, tmp_path, tmp_path / "results", "")
    assert (result["failed"], result["members"], result["accuracy"], result["reports"]) == (True, [], {}, None)


def test_a_run_that_diverges_is_a_failed_result(images, tmp_path, monkeypatch):
    diverged = training.History([2.0, float("nan")], diverged=True)
    monkeypatch.setattr(complete_job, "trained", lambda *a: (None, diverged))
    result = complete_job.complete(toy_job(), images, tmp_path, tmp_path, "")
    assert result["failed"]
    assert (result["accuracy"], result["reports"]) == ({}, None)
    assert result["training"]["loss"] == [2.0]
