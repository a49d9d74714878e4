"""A result file is refused where it cannot be trusted, and is never overwritten."""

import json

import pytest

from benchmarks.paper import results_file
from benchmarks.paper.run import complete_job
from dampode import training
from tests.paper.toy import bytes_of, never_called, toy_job


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[: len(text) // 2], "truncated or damaged"),
        (lambda text: text.replace('"command": "command"', '"command": "other"'), "was edited after it was written"),
        (lambda text: text.replace('"version": 2', '"version": 0'), "must be of version 2, got version 0"),
        (lambda text: '{"acc": 1}', "must be a result with"),
        (lambda text: "[" * 100_000, "truncated or damaged"),
        (lambda text: '{"a": NaN}', "truncated or damaged"),
        (lambda text: '{"version": 2, "config": null, "checksum": ""}', "must be a result with"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_and_kept(finished, images, tmp_path, monkeypatch, harm, message):
    path = tmp_path / f"{toy_job().stem}.json"
    path.write_text(harm((finished[1] / path.name).read_text()))
    before = bytes_of(tmp_path)
    monkeypatch.setattr(training, "fit", never_called)
    with pytest.raises(ValueError, match=message):
        complete_job.complete(toy_job(), images, finished[0], tmp_path, "")
    with pytest.raises(ValueError, match=message):
        results_file.read_all(tmp_path)
    assert bytes_of(tmp_path) == before


def test_two_results_of_one_job_are_refused(finished, tmp_path):
    text = (finished[1] / f"{toy_job().stem}.json").read_text()
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"a\.json and .*b\.json are two results of one job"):
        results_file.read_all(tmp_path)


def test_foreign_settings_are_refused(tmp_path):
    results_file.write(tmp_path / "a.json", {"lr": 1}, {})
    with pytest.raises(ValueError, match=r"a\.json must hold the settings of a job"):
        results_file.read_all(tmp_path)


def test_a_result_is_never_written_over(tmp_path):
    results_file.write(tmp_path / "a.json", toy_job().config, {"x": 1})
    before = bytes_of(tmp_path)
    with pytest.raises(FileExistsError, match="is not overwritten"):
        results_file.write(tmp_path / "a.json", toy_job().config, {"x": 2})
    assert bytes_of(tmp_path) == before
    assert json.loads((tmp_path / "a.json").read_text())["x"] == 1


def test_the_stored_results_have_every_key():
    keys = {"version", "config", "provenance", "failed", "accuracy", "reports", "coefficients", "landscapes"}
    keys |= {"execution", "training", "members"}
    results = results_file.read_current(results_file.RESULTS)
    assert results
    for result in results:
        measured = {"depth"} if result["config"]["scale"]["name"] == "fit" else set()  # other weights were not kept
        assert set(result) == keys | measured
