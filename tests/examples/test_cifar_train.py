"""The main job, run as a user runs it, on a few digits."""

import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tyro

from dampode.training import load_checkpoint
from tests.helpers import ROOT

SCRIPT = ROOT / "examples" / "cifar_train.py"
spec = importlib.util.spec_from_file_location("cifar_train", SCRIPT)
example = sys.modules["cifar_train"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
SMALL = ["--depth", "8", "--width", "4", "--epochs", "2", "--train-images", "200", "--test-images", "100"]


def run(out, *flags):
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--device", "cpu", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_trains_measures_writes_and_resumes(tmp_path):
    flags = [*SMALL, "--batch-size", "50", "--models", "resnet", "cnn", "--seeds", "0", "1"]
    done = run(tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert table in done.stdout
    assert table.count("±") == 2 * 10
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(r["model"], r["seed"]) for r in report["runs"]] == [(m, s) for s in (0, 1) for m in ("resnet", "cnn")]
    assert report["runs"][0]["report"]["n"] == 100
    assert (tmp_path / "robustness.png").stat().st_size > 5000
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 4
    assert (tmp_path / "logs" / "cnn-seed1" / "log.csv").read_text().count("\n") == 3

    again = run(tmp_path, *flags, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "report.json").read_text())["runs"] == report["runs"]
    for changed, message in (
        (["--resume", "--width", "5"], "identity.width is 4 there and 5 here"),
        ([], "is there already"),
    ):
        arguments = ["--out", str(tmp_path), "--device", "cpu", *flags, *changed]
        with pytest.raises(ValueError, match=message):
            example.main(tyro.cli(example.Args, args=arguments))


def test_npz_and_coefficients(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    y = np.arange(30) % 3
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = ["--data", str(tmp_path / "set.npz"), "--depth", "14", "--width", "4", "--batch-size", "30"]
    flags += [
        "--recipe",
        "cifar100",
        "--epochs",
        "1",
        "--augmentation",
        "reflect",
        "--precision",
        "bf16",
        "--checkpoint-every",
        "1",
    ]
    done = run(tmp_path / "out", *flags, "--models", "lambda_in_resnet")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["runs"][0]["coefficients"]) == 3
    assert report["recipe"]["augmentation"] == {"pad": 2, "flip": True, "mode": "reflect"}
    assert (report["recipe"]["epochs"], report["settings"]["precision"]) == (1, "bf16")
    assert (tmp_path / "out" / "coefficients.png").exists()


def test_an_npz_is_only_augmented_on_request(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 4, 8, 8), dtype=np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = ["--data", str(tmp_path / "set.npz"), "--device", "cpu", "--models", "resnet", "--depth", "8"]
    flags += ["--width", "4", "--epochs", "1", "--batch-size", "30", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match='pass layout="NHWC" or layout="NCHW"'):
        example.main(tyro.cli(example.Args, args=flags))
    used = {}
    for chosen in ("data", "none", "zero"):
        args = [*flags, "--layout", "NCHW", "--augmentation", chosen, "--out", str(tmp_path / chosen)]
        example.main(tyro.cli(example.Args, args=args))
        settings = load_checkpoint(tmp_path / chosen / "checkpoints" / "resnet-seed0.pt")["settings"]
        used[chosen] = settings["augmentation"]
    none = {"pad": 0, "flip": False, "mode": "zero"}
    assert used == {"data": none, "none": none, "zero": {"pad": 4, "flip": True, "mode": "zero"}}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "mnist"], "data must be digits, cifar10, cifar100"),
        (["--data", "none.npz"], "must exist"),
        (["--depth", "9"], "depth must be"),
        (["--depth", "14", "--low", "0.5"], "low must not exceed high"),
        (["--low", "-0.1"], "low must be at least 0"),
        (["--depth", "8"], "at least 14 for a damped layer"),
        (["--eps", "-1"], "eps must be at least 0"),
        (["--eps", "300"], "eps must be at least 0 and at most 255, got [300"),
        (["--depth", "99999998"], "depth must be at most 10000, got 99999998"),
        (["--width", "9999999999", "--models", "resnet", "--depth", "8"], "resnet must fit into memory"),
        (["--seeds", "0", "0"], "seeds needs at least one value and none twice"),
        (["--seeds", str(2**64)], "a seed must have at most 64 bits, got 18446744073709551616"),
        (["--device", "nowhere"], "device nowhere cannot be used here"),
        (["--device", "meta"], "device meta cannot be used here"),
        (["--epochs", "0"], "epochs must be a positive int"),
        (["--lr", "-1"], "lr must be above 0"),
        (["--batch-size", "41"], "batch_size must not exceed the training set, got 41 for 40 images"),
        (["--channels-last", "True", "--width", "4", "--batch-size", "40"], "channels_last must stay off"),
    ],
)
def test_bad_input_is_refused_in_words(tmp_path, flags, message):
    small = ["--out", str(tmp_path), "--device", "cpu", "--train-images", "40", "--test-images", "20"]
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        example.main(tyro.cli(example.Args, args=[*small, *flags]))


def test_failed_runs_are_reported_and_not_averaged():
    """Beside sound runs they are left out; a model stuck at chance in every run shows that, marked."""

    def run(model, seed, clean, diverged=False, at_chance=False):
        found = SimpleNamespace(clean=clean, gaussian_noise=[clean] * 5, fgsm=[(1 / 255, clean)])
        report = None if diverged else found
        return example.Run(model, seed, diverged, at_chance, None, [], report)

    runs = [run("resnet", 0, 0.9), run("resnet", 1, 0.1, at_chance=True), run("resnet", 2, 0.1, diverged=True)]
    runs += [run("cnn", 0, 0.12, at_chance=True), run("cnn", 1, 0.1, diverged=True), run("in_resnet", 0, 0.1, True)]
    lines = example.table(runs, example.Args(models=("resnet", "cnn", "in_resnet"), eps=(1,))).splitlines()[2:]
    assert lines[0].startswith("| resnet (1 diverged, 1 stuck at chance) | 90.0 | 90.0 |")
    assert lines[1].startswith("| cnn (1 diverged, 1 stuck at chance) | 12.0 | 12.0 |")
    assert lines[2].startswith("| in_resnet (1 diverged) | - | - |")


@pytest.mark.parametrize(
    "flags",
    [
        ["--models", "in_resnet", "resnet", "--low", "1e20", "--high", "2e20", "--depth", "20", "--width", "4"],
        ["--models", "resnet", "--lr", "1e20", "--depth", "8", "--width", "4"],
    ],
)
def test_a_diverged_network_is_counted_and_the_others_are_reported(tmp_path, flags):
    flags = ["--train-images", "100", "--test-images", "50", "--batch-size", "50", "--epochs", "1", *flags]
    for resume in ([], ["--resume"]):
        example.main(tyro.cli(example.Args, args=["--out", str(tmp_path), "--device", "cpu", *flags, *resume]))
        first, *others = json.loads((tmp_path / "report.json").read_text())["runs"]
        assert first["diverged"]
        assert (first["report"], first["final_loss"], first["coefficients"]) == (None, None, [])
        assert f"{first['model']} (1 diverged) | - |" in (tmp_path / "table.md").read_text()
        assert all(run["report"]["n"] == 50 for run in others)


@pytest.mark.parametrize("name", ["table.md", "checkpoints/resnet-seed0.pt"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_training(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    flags = ["--out", str(tmp_path), "--device", "cpu", "--models", "resnet", "--depth", "8", "--resume"]
    with pytest.raises(OSError, match=f"got the folder .*{name}"):
        example.main(tyro.cli(example.Args, args=flags))
    assert not list(tmp_path.rglob("*seed0/log.csv"))


def test_an_error_ends_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "out", *SMALL)
    assert done.returncode != 0
    assert "error: the output folder must be writable" in done.stderr
    assert "Traceback" not in done.stderr


def test_differences_within_noise_are_called_so():
    assert example.difference(0.9, 0.9, 360).endswith("within noise)")
    assert "within noise" not in example.difference(0.9, 0.7, 360)
    assert example.difference(0.7, 0.9, 360).startswith("-20.0 (-")
    report = example.Accuracies(360, 0.9, [0.8] * 5, [(1, 0.5)])
    better = example.Accuracies(360, 0.9, [0.8] * 5, [(1, 0.7)])
    runs = [example.Run(name, 0, False, False, 0.1, [], r) for name, r in (("resnet", report), ("cnn", better))]
    said = example.verdict(runs, example.Args(models=("resnet", "cnn"), eps=(1,)))
    assert said.startswith("cnn minus resnet, in points: clean +0.0 (")
    assert "; FGSM 1/255 +20.0 (+" in said
