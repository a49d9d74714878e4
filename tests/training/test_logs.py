"""log.csv and TensorBoard hold every epoch once."""

import csv
import sys
import time

import pytest
import torch
from torch import nn

from dampode import DampedBlock
from dampode.training import Recipe, fit, load_checkpoint
from tests.helpers.training import Interrupt, net, tiny


def read(logs):
    with open(logs / "log.csv") as file:
        return list(csv.DictReader(file))


def damped(interrupt):
    torch.manual_seed(0)
    return nn.Sequential(
        Interrupt(interrupt), nn.Flatten(), nn.Linear(16, 8), DampedBlock(nn.Linear(8, 8)), nn.Linear(8, 2)
    )


def test_logs_hold_every_epoch_once(tmp_path):
    recipe, path, logs = Recipe(epochs=3, batch_size=16), tmp_path / "run.pt", tmp_path / "logs"
    flags = {"checkpoint": path, "logs": logs, "tensorboard": True}
    with pytest.raises(KeyboardInterrupt):
        fit(damped(8), tiny(), recipe, **flags)
    assert [row["epoch"] for row in read(logs)] == ["1", "2"]
    time.sleep(1.1)  # TensorBoard's files are ordered by the second
    fit(damped(-1), tiny(), recipe, logs=logs, tensorboard=True)  # as if killed between a log and its checkpoint
    time.sleep(1.1)
    fit(damped(-1), tiny(), recipe, **flags, resume=True)
    rows = read(logs)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    history = load_checkpoint(path)["history"]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert [float(row["lam_max"]) for row in rows] == [lam[2] for lam in history["lam"]]
    assert [float(row["lr"]) for row in rows] == [recipe.lr_at(e) for e in range(3)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs), purge_orphaned_data=True)
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history["loss"], rel=1e-6)


def test_a_finished_run_is_logged_in_another_folder_too(tmp_path):
    flags = {"checkpoint": tmp_path / "run.pt", "resume": True}
    first, again = tmp_path / "first", tmp_path / "again"
    for logs in (first, again):
        fit(net(), tiny(), Recipe(epochs=2, batch_size=16), logs=logs, **flags)
    assert (again / "log.csv").read_text() == (first / "log.csv").read_text()


def test_tensorboard_that_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"install dampode\[train\]"):
        fit(net(), tiny(), Recipe(epochs=1, batch_size=16), logs=tmp_path, tensorboard=True)
