"""The main job, run as a user runs it, on a few digits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "cifar_train.py"
SMALL = ["--depth", "8", "--width", "4", "--epochs", "2", "--train-images", "200", "--test-images", "100"]


def run(out, *flags):
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--device", "cpu", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_trains_measures_writes_and_resumes(tmp_path):
    flags = [*SMALL, "--models", "in_resnet", "cnn", "--seeds", "0", "1"]
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    assert table.count("±") == 2 * 10
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(r["model"], r["seed"]) for r in report["runs"]] == [
        ("in_resnet", 0),
        ("cnn", 0),
        ("in_resnet", 1),
        ("cnn", 1),
    ]
    assert report["runs"][0]["report"]["n"] == 100
    assert len(report["runs"][0]["coefficients"]) == 0  # depth 8 has one block a stage, and that one is undamped
    assert (tmp_path / "robustness.png").stat().st_size > 5000
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4

    again = run(tmp_path, *flags, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "report.json").read_text())["runs"] == report["runs"]


def test_npz_and_coefficients(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    y = np.arange(30) % 3
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = ["--data", str(tmp_path / "set.npz"), "--depth", "14", "--width", "4", "--epochs", "1"]
    done = run(tmp_path / "out", *flags, "--models", "lambda_in_resnet")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["runs"][0]["coefficients"]) == 3
    assert (tmp_path / "out" / "coefficients.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "mnist"], "data must be digits, cifar10, cifar100"),
        (["--data", "none.npz"], "must exist"),
        (["--depth", "9"], "depth must be"),
        (["--low", "0.5"], "low must not exceed high"),
        (["--epochs", "0"], "epochs must be a positive int"),
    ],
)
def test_bad_input_ends_in_words(tmp_path, flags, message):
    done = run(tmp_path, *flags)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_folder_ends_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "out", *SMALL)
    assert done.returncode != 0
    assert "output folder must be writable" in done.stderr
    assert "Traceback" not in done.stderr
