"""No earlier checkpoint is ever lost, and none that is not whole is taken."""

import os
import subprocess
import sys

import pytest
import torch
from test_training import net, tiny

from dampode import training
from dampode.training import Recipe, fit

ONE = Recipe(epochs=1, batch_size=16)


def test_checkpoints_are_refused_in_words(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match="must exist"):
        training.load_checkpoint(path)
    fit(net(), tiny(), ONE, checkpoint=path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or of another kind"):
            training.load_checkpoint(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of dampode\.training"):
        training.load_checkpoint(path)


FULL = """
import resource, signal, sys, tempfile; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_training import net, tiny
from dampode.training import Recipe, fit
path = Path(sys.argv[1])
before = path.read_bytes()
tempfile.gettempdir()  # which writes a file the first time
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails as on a full disk
for limit in (0, 1000, len(before) // 2):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        fit(net(), tiny(), Recipe(epochs=2, batch_size=16), checkpoint=path, resume=True)
    except OSError as error:
        assert f"{path} could not be written" in str(error), error
        assert "the one before it is untouched" in str(error), error
    else:
        raise AssertionError("nothing was refused")
    assert path.read_bytes() == before
"""


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    """The system's own refusal to write more bytes, at several places in the file."""
    path = tmp_path / "run.pt"
    fit(net(), tiny(), Recipe(epochs=2, batch_size=16), checkpoint=path)
    state = training.load_checkpoint(path)
    for name in ("loss", "accuracy", "seconds", "lam"):  # as it was after the first epoch
        state["history"][name].pop()
    training.save_checkpoint(path, state)
    command = [sys.executable, "-c", FULL, path, os.path.dirname(__file__)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    training.load_checkpoint(path)


def test_a_folder_that_turns_unwritable_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(net(), tiny(), ONE, checkpoint=path)
    before = path.read_bytes()

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)  # chmod would not hold back a root user
    with pytest.raises(OSError, match=r"could not be written .*Permission denied.* untouched"):
        fit(net(), tiny(), ONE, checkpoint=path)
    assert path.read_bytes() == before


def test_an_unwritable_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="output folder must be writable"):
        training.require_writable(tmp_path / "file" / "out")
    with pytest.raises(OSError, match="output folder must be writable"):
        fit(net(), tiny(), ONE, checkpoint=tmp_path / "file" / "out" / "run.pt")
    with pytest.raises(OSError, match="output folder must be writable"):
        fit(net(), tiny(), ONE, logs=tmp_path / "file" / "logs")
