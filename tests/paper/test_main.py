"""The command line: time limits add up, and a job that another process runs is skipped."""

import signal
from dataclasses import replace

import pytest

from benchmarks.paper import __main__ as command_line
from benchmarks.paper import results_file
from benchmarks.paper.run import complete_job
from dampode import training
from dampode.data import Augmentation
from tests.paper.toy import never_called, numbers, toy_job


@pytest.fixture(autouse=True)
def _no_run_fails(monkeypatch):
    monkeypatch.setattr(complete_job, "CHANCE", -1.0)  # two steps of training do not lift a network above chance


def arguments(tmp_path, minutes=None):
    return command_line.Args("next", minutes=minutes, out=tmp_path / "out", device="cpu")


def test_a_time_limit_too_short_for_an_epoch_is_said_and_changes_nothing(images, tmp_path, monkeypatch, capsys):
    def stops(*arguments, **keywords):
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(command_line, "load", lambda job, args: images)
    monkeypatch.setattr(training, "fit", stops)
    with pytest.raises(ValueError, match=r"--minutes 5 is too short for one epoch of lambda_in"):
        command_line.run([toy_job()], arguments(tmp_path, 5.0), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_short_time_limits_add_up(finished, images, tmp_path, monkeypatch, capsys):
    epochs = []
    fit = training.fit

    def stops_in_the_second_epoch(model, data, recipe, **keywords):
        class Stops(Augmentation):
            def draw(self, n, generator):
                epochs.append(1)
                if len(epochs) == 2:
                    signal.raise_signal(signal.SIGALRM)
                return super().draw(n, generator)

        return fit(model, data, replace(recipe, augmentation=Stops()), **keywords)

    monkeypatch.setattr(command_line, "load", lambda job, args: images)
    monkeypatch.setattr(training, "fit", stops_in_the_second_epoch)
    command_line.run([toy_job()], arguments(tmp_path, 5.0), tmp_path / "results")
    assert "minutes are over in lambda_in_resnet-110_cifar10_toy_text_seed0" in capsys.readouterr().out
    command_line.run([toy_job(), toy_job()], arguments(tmp_path), tmp_path / "results")
    assert len(epochs) == 3  # the first, the one cut short, and that one again
    (result,) = results_file.read_all(tmp_path / "results")
    assert numbers(result) == numbers(finished[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, r"--seeds needs at least one value and none twice, got \[\]"),
        ({"seeds": (0, 0)}, r"--seeds needs at least one value and none twice, got \[0, 0\]"),
        ({"seeds": (2**64,)}, "a seed must have at most 64 bits"),
        ({"dataset": ()}, "--dataset needs at least one value"),
        ({"minutes": 1e300}, "--minutes must be at most 525600, a year, got 1e"),
        ({"device": "meta"}, "device meta cannot be used here"),
    ],
)
def test_flags_that_no_job_can_use_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        command_line.main(replace(arguments(tmp_path), target="table1", **changes))


def test_a_job_that_another_process_runs_is_skipped(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "complete", never_called)
    with complete_job.reserved(toy_job(), tmp_path / "out") as free:
        assert free
        command_line.run([toy_job()], arguments(tmp_path), tmp_path / "results")
    assert "another process is running it" in capsys.readouterr().out
    with complete_job.reserved(toy_job(), tmp_path / "out") as free:
        assert free
