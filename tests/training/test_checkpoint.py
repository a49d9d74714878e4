"""No earlier checkpoint is ever lost, and none that is not whole is taken."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dampode import DampedBlock
from dampode._files import require_writable
from dampode.training import Recipe, fit, load_checkpoint
from dampode.training.checkpoint import save_checkpoint
from tests.helpers import ROOT
from tests.helpers.training import net, tiny

ONE = Recipe(epochs=1, batch_size=16)


def test_checkpoints_are_refused_in_words(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match="must exist"):
        load_checkpoint(path)
    fit(net(), tiny(), ONE, checkpoint=path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or of another kind"):
            load_checkpoint(path)
    for place in range(whole.index(b"data/0"), len(whole) - 2000, 4001):  # one bit of a number, which torch reads
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged or of another kind"):
            load_checkpoint(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of dampode\.training"):
        load_checkpoint(path)


FULL = """
import resource, signal, sys, tempfile; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.helpers.training import net, tiny
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
        assert "an existing file is untouched" in str(error), error
    else:
        raise AssertionError("nothing was refused")
    assert path.read_bytes() == before
"""


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    """The system's own refusal to write more bytes, at several places in the file."""
    path = tmp_path / "run.pt"
    fit(net(), tiny(), Recipe(epochs=2, batch_size=16), checkpoint=path)
    state = load_checkpoint(path)
    for name in ("loss", "accuracy", "seconds", "lam"):  # as it was after the first epoch
        state["history"][name].pop()
    save_checkpoint(path, state)
    command = [sys.executable, "-c", FULL, path, str(ROOT)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    load_checkpoint(path)


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
        require_writable(tmp_path / "file" / "out")
    with pytest.raises(OSError, match="output folder must be writable"):
        fit(net(), tiny(), ONE, checkpoint=tmp_path / "file" / "out" / "run.pt")
    with pytest.raises(OSError, match="output folder must be writable"):
        fit(net(), tiny(), ONE, logs=tmp_path / "file" / "logs")


def test_settings_of_numpy_are_read_again(tmp_path):
    """A checkpoint is read without running code, which NumPy's numbers need."""
    path, recipe = tmp_path / "run.pt", replace(ONE, lr=np.float64(0.1), milestones=(np.float64(0.5), 0.75))
    once = fit(net(), tiny(), recipe, checkpoint=path, identity={"low": np.float64(0.2)})
    again = fit(net(), tiny(), ONE, checkpoint=path, resume=True, identity={"low": 0.2})
    assert again.loss == once.loss


def test_settings_that_no_checkpoint_gives_back_are_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match=r"identity\.folder must be a string or a number, got .* of type PosixPath"):
        fit(net(), tiny(), ONE, identity={"folder": tmp_path})
    with pytest.raises(TypeError, match=r"a seed must be an int, got 1\.5 of type float"):
        fit(net(), tiny(), ONE, seed=1.5)


def test_a_function_without_a_name_is_refused_only_for_a_checkpoint(tmp_path):
    model = nn.Sequential(net(), DampedBlock(nn.Linear(2, 2), rho=lambda lam: 1 + lam))
    before = model[1].func.f.f.weight.clone()
    with pytest.raises(ValueError, match=r"got DampedODEFunc\(rho=<lambda>\) at '1\.func'"):
        fit(model, tiny(), ONE, checkpoint=tmp_path / "run.pt")
    assert torch.equal(model[1].func.f.f.weight, before)
    assert len(fit(model, tiny(), ONE).loss) == 1


def test_a_folder_in_the_place_of_the_file_is_refused_at_once(tmp_path):
    model = net()
    before = model[1].weight.clone()
    with pytest.raises(OSError, match="got the folder"):
        fit(model, tiny(), ONE, checkpoint=tmp_path)
    assert torch.equal(model[1].weight, before)


def test_a_checkpoint_without_content_is_refused_in_words(tmp_path):
    path = tmp_path / "run.pt"
    fit(net(), tiny(), ONE, checkpoint=path)
    whole = load_checkpoint(path)
    torch.save(dict.fromkeys(whole), path)
    with pytest.raises(ValueError, match=r"must be a whole checkpoint; its architecture, .* is no dict"):
        load_checkpoint(path)
    for part in ("optimizer", "random", "position", "history"):
        for content in ({}, dict.fromkeys(whole[part])):
            save_checkpoint(path, whole | {part: content})
            with pytest.raises(ValueError, match="must hold the progress of this run"):
                fit(net(), tiny(), ONE, checkpoint=path, resume=True)


def test_a_link_that_leads_nowhere_is_no_absent_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    path.symlink_to(path)
    with pytest.raises(ValueError, match="a link that leads to no file"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="a link that leads to no file"):
        fit(net(), tiny(), ONE, checkpoint=path, resume=True)
    assert path.is_symlink()


def test_a_seed_beyond_64_bits_is_refused_in_words():
    for seed in (2**64, -(2**63) - 1):
        with pytest.raises(ValueError, match="a seed must have at most 64 bits"):
            fit(net(), tiny(), ONE, seed=seed)


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(net(), tiny(), ONE, checkpoint="~/run.pt", logs="~/logs")
    save_checkpoint("~/copy.pt", load_checkpoint("~/run.pt"))
    fit(net(), tiny(), ONE, checkpoint="~/copy.pt", resume=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == ["copy.pt", "logs", "run.pt"]


@pytest.mark.parametrize("content", [b"\x80", b"", b"PK", b"\x80\x02}q\x00."])
def test_a_file_of_any_bytes_is_refused_in_words(tmp_path, content):
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a (whole )?checkpoint"):
        load_checkpoint(tmp_path / "run.pt")
