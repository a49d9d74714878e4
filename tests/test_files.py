"""Files are written whole, by one process at a time, and killed runs leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from dampode import data, models, plots, robustness, training
from dampode._files import only_writer, write_atomically
from dampode.cli.robustness import main
from dampode.training.checkpoint import save_checkpoint


def dead_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, lambda file: file.write(b"first"))
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["file.txt"]


def test_without_replace_an_existing_file_is_refused(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, lambda file: file.write(b"first"), replace=False)
    with pytest.raises(FileExistsError, match=r"file\.txt already exists and is not overwritten"):
        write_atomically(path, lambda file: file.write(b"second"), replace=False)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file.txt"]


def test_a_failed_write_keeps_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"first")

    def fail(file):
        file.write(b"sec")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not be written .*No space left.* untouched"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file.txt"]


def test_parts_of_killed_processes_go_at_the_next_write(tmp_path):
    gone = tmp_path / f".file.txt.{dead_process()}.part"
    kept = [tmp_path / name for name in (f".file.txt.{os.getppid()}.part", ".file.txt.notes.part", ".other.txt.1.part")]
    for part in (gone, *kept):
        part.touch()
    write_atomically(tmp_path / "file.txt", lambda file: file.write(b"whole"))
    assert not gone.exists()
    assert all(part.exists() for part in kept)


def test_one_process_may_write(tmp_path):
    path = tmp_path / "file.txt"
    with only_writer(path), pytest.raises(OSError, match="only one run may write"), only_writer(path):
        pass
    with only_writer(path):
        pass
    with pytest.raises(OSError, match="got the folder"), only_writer(tmp_path):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder to work in."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    yield home
    assert names(here) == []  # nothing was written to a folder of the name "~"


def test_every_path_may_begin_with_the_home_folder(home):
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    images = data.ImageData("four", x, y, x, y, 2)
    models.save(model, "~/weights.safetensors")
    models.load(model, "~/weights.safetensors")
    np.savez(home / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert len(data.load("~/images.npz", layout="NCHW").x_train) == 4
    for resume in (False, True):
        run = {"checkpoint": "~/run/run.pt", "logs": "~/run", "resume": resume}
        training.fit(model, images, training.Recipe(epochs=1, batch_size=2), **run)
    save_checkpoint("~/again.pt", training.load_checkpoint("~/run/run.pt"))
    robustness.evaluate(model.eval(), x, y, noises=[], partial="~/part.json")
    report = robustness.evaluate(model, x, y, noises=[], partial="~/part.json")  # reads the file
    report.save("~/report")
    plots.save(plt.figure(), {}, "~/figure.png")
    with only_writer("~/free.txt"):
        write_atomically(Path("~/free.txt"), lambda file: file.write(b"whole"))
    assert {"weights.safetensors", "run", "again.pt", "part.json", "report", "figure.png", "free.txt"} <= {*names(home)}
    for folder in ("~/noise", Path("~/noise")):
        for read in (
            lambda folder: robustness.load_cifar_c(folder, "gaussian_noise", 1),
            lambda folder: robustness.CifarCFiles(folder, y),
            lambda folder: robustness.ImageNetCFiles(folder, y),
        ):
            with pytest.raises(FileNotFoundError, match=str(home / "noise")):
                read(folder)


def test_the_command_line_takes_the_home_folder(home, capsys):
    digits = data.load("digits")
    mean, std = digits.statistics()
    models.save(models.resnet(8, 10, width=4, in_channels=1, mean=mean, std=std), home / "net.safetensors")
    command = "--model ~/net.safetensors --network resnet --depth 8 --width 4 --data digits --images 10 --eps 1"
    main([*command.split(), "--steps", "1", "--out", "~/measured"])
    assert {"report.json", "report.md", "robustness.png"} <= {*names(home / "measured")}
    with pytest.raises(SystemExit, match=str(home / "cifar")):
        main([*command.split(), "--steps", "1", "--out", "~/noisy", "--cifar-c", "~/cifar"])
