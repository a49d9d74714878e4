"""python -m dampode.cli.robustness, run as a user runs it, and the figures that it draws."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from dampode import data, models, plots, training
from dampode._files import only_writer
from dampode.block import DampedBlock
from dampode.cli.robustness import at_lower_cost, main
from dampode.robustness import Report
from tests.helpers.reports import PASSED, column


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One network as a safetensors file and as a training checkpoint."""
    folder = tmp_path_factory.mktemp("nets")
    images = data.load("digits").subset(train=200)
    mean, std = images.statistics()
    model = models.in_resnet(14, 10, width=4, in_channels=1, mean=mean, std=std)
    training.fit(model, images, training.Recipe(1), checkpoint=folder / "net.pt")
    models.save(model, folder / "net.safetensors")
    return folder


SMALL = ["--depth", "14", "--width", "4", "--data", "digits", "--images", "20", "--steps", "2", "--device", "cpu"]


def test_a_saved_network_is_measured(saved, tmp_path):
    flags = [*SMALL, "--network", "in_resnet", "--eps", "4"]
    command = [
        sys.executable,
        "-m",
        "dampode.cli.robustness",
        "--model",
        saved / "net.safetensors",
        "--out",
        tmp_path / "a",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "a").glob("[!.]*")) == ["report.json", "report.md", "robustness.png"]
    report = Report.from_json((tmp_path / "a" / "report.json").read_text())
    assert report.markdown() in done.stdout
    assert report.n == 20
    assert report.settings["network"] == "in_resnet-14, damping and batch norm folded; the same function up to rounding"
    assert report.strengths("attack") == [4 / 255]
    main(["--model", str(saved / "net.pt"), "--out", str(tmp_path / "b"), *flags])
    assert (tmp_path / "b" / "report.json").read_text() == (tmp_path / "a" / "report.json").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--network", "resnet"], "holds another architecture"),
        (["--network", "in_resnet", "--model", "none.safetensors"], "No such file"),
        (["--network", "in_resnet", "--eps", "-1"], "in units of 1/255 .* got -1; for a radius of 8/255 give 8"),
        (["--network", "in_resnet", "--eps", "0"], "in units of 1/255 .* got 0; for a radius of 8/255 give 8"),
        (["--network", "in_resnet", "--eps", "4", "0.03137"], "in units of 1/255 .* got 0.03137; for a radius"),
        (["--network", "in_resnet", "--eps", "256"], "in units of 1/255 for the norm linf, from 0.1 to 255, got 256"),
        (["--network", "in_resnet", "--norm", "l2", "--eps", "0"], "eps must be above 0, got 0"),
        (["--network", "in_resnet", "--norm", "l2", "--eps", "128"], "eps must be at most 8 in L2, .* got 128"),
        (["--network", "in_resnet", "--eps"], "eps must hold at least one radius"),
        (["--network", "in_resnet", "--layout", "NHWC"], "layout is about the arrays of an .npz file"),
        (["--network", "in_resnet", "--images", "0"], "the number of images must be a positive int, got 0"),
        (["--network", "in_resnet", "--device", "nowhere"], "device nowhere cannot be used here"),
        (["--network", "in_resnet", "--cifar-c", "nowhere"], "must exist: download CIFAR-10-C"),
        (["--network", "in_resnet", "--imagenet-c", "nowhere"], "must hold a folder per corruption"),
        (
            ["--network", "in_resnet", "--cifar-c", "a", "--imagenet-c", "b"],
            "got --cifar-c and --imagenet-c; leave one",
        ),
        (["--network", "in_resnet", "--transfer", "none.safetensors"], "No such file"),
        (["--network", "in_resnet", "--transfer-network", "resnet"], "got no --transfer; give its file"),
    ],
)
def test_bad_input_ends_in_words(saved, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        main([*SMALL, "--model", str(saved / "net.safetensors"), "--out", str(tmp_path), *flags])


def test_two_norms_autoattack_and_a_transfer(saved, tmp_path):
    """Every image is broken at these radii, so AutoAttack stops early."""
    twin = models.resnet(14, 10, width=4, in_channels=1, mean=(0.5,), std=(0.5,)).eval()
    models.save(twin, tmp_path / "twin.safetensors")
    flags = [*SMALL, "--network", "in_resnet", "--model", str(saved / "net.safetensors"), "--autoattack", "standard"]
    flags += ["--transfer", str(tmp_path / "twin.safetensors"), "--transfer-network", "resnet", "--alpha", "0.5"]
    for norm, eps, alpha in (("linf", "200", 0.5 / 255), ("l2", "6", 0.5)):
        main([*flags, "--norm", norm, "--eps", eps, "--out", str(tmp_path / norm)])
        report = Report.from_json((tmp_path / norm / "report.json").read_text())
        only_linf = ["IFGSM", "uniform noise"] if norm == "linf" else []
        transferred = "transfer from twin.safetensors" + (" in L2" if norm == "l2" else "")
        assert sorted(report.names("attack", norm)) == sorted(["FGSM", "PGD", "AutoAttack", transferred, *only_linf])
        assert report.norms == [norm]
        (radius,) = report.radii(norm)
        assert radius == float(eps) / (255 if norm == "linf" else 1)
        assert f"PGD(alpha={alpha}, steps=2" in report.settings["attacks"]
        assert report.robust_accuracy(radius, norm) == 0


def test_the_report_of_another_model_is_not_overwritten(saved, tmp_path):
    Report(10, (column("clean", 0.0, 9, 10, "clean"),), PASSED, {"model": "Net 0123"}).save(tmp_path)
    before = (tmp_path / "report.json").read_text()
    flags = [*SMALL, "--network", "in_resnet", "--model", str(saved / "net.safetensors"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"would be overwritten: .* got the report of Net 0123; .* folder with --out"):
        main(flags)
    assert (tmp_path / "report.json").read_text() == before


def test_corruptions_are_read_from_a_folder_of_imagenet_c(tmp_path):
    rng = np.random.default_rng(0)
    folders = [tmp_path / "data" / "train", tmp_path / "data" / "test"]
    folders += [tmp_path / "c" / name / str(severity) for name in ("fog", "snow") for severity in range(1, 6)]
    for folder in folders:
        for label in ("cat", "dog"):
            (folder / label).mkdir(parents=True)
            for k in range(3):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / label / f"{k}.png")
    images = data.load(tmp_path / "data")
    mean, std = images.statistics()
    models.save(models.cnn(14, 2, width=4, mean=mean, std=std).eval(), tmp_path / "net.safetensors")
    flags = ["--model", str(tmp_path / "net.safetensors"), "--network", "cnn", "--depth", "14", "--width", "4"]
    flags += ["--data", str(tmp_path / "data"), "--images", "4", "--steps", "1", "--eps", "8", "--device", "cpu"]
    main([*flags, "--imagenet-c", str(tmp_path / "c"), "--out", str(tmp_path / "out")])
    report = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert sorted(report.names("noise")) == ["fog", "snow"]
    assert report.strengths("noise") == [1, 2, 3, 4, 5]
    assert report.settings["noise"].startswith("ImageNet-C, files")


def test_the_folded_network_is_measured_where_it_folds():
    folded, words = at_lower_cost(models.in_resnet(14, 10, width=4).eval())
    assert "folded" in words
    assert not any(isinstance(module, DampedBlock) for module in folded.modules())
    plain = models.cnn(14, 10, width=4).eval()  # its λ is 1
    same, words = at_lower_cost(plain)
    assert any(isinstance(module, DampedBlock) for module in same.modules())
    assert "damping as saved: " in words


def test_a_checkpoint_says_which_network_it_is_of(saved, tmp_path):
    flags = [*SMALL, "--out", str(tmp_path), "--eps", "4"]
    for network in ("lambda_in_resnet", "resnet"):
        with pytest.raises(SystemExit, match=r"net\.pt holds another architecture"):
            main([*flags, "--model", str(saved / "net.pt"), "--network", network])


def test_two_runs_do_not_write_one_folder(saved, tmp_path):
    flags = [*SMALL, "--model", str(saved / "net.safetensors"), "--network", "in_resnet", "--out", str(tmp_path)]
    with (
        only_writer(tmp_path / "report.json"),
        pytest.raises(SystemExit, match=r"only one run may write .*report\.json; another does so now"),
    ):
        main(flags)


def test_flags_that_do_not_parse_end_in_words(capsys):
    for flags, message in (
        (["--network", "vgg"], "vgg"),
        (["--model", "net.pt", "--network", "cnn"], "--out"),
    ):
        with pytest.raises(SystemExit) as end:
            main(flags)
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_missing_tyro_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r"the command line is tyro's: install dampode\[train\]"):
        main(["--help"])


def test_help_without_the_extra_is_worded():
    """In a process of its own, where no module of the extra can be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tyro', 'accelerate', 'tqdm', 'tensorboard', 'sklearn']));"
        "from dampode.cli.robustness import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the command line is tyro's: install dampode[train]\n"


def test_figures_draw_the_report():
    columns = [column("clean", 0.0, 9, 10, "clean")]
    columns += [column("shot_noise", s, 9 - s, 10, "noise") for s in (1, 2)]
    columns += [column("FGSM", 2 / 255, 5, 10), column("PGD", 2 / 255, 4, 10)]
    report = Report(10, tuple(columns), PASSED, {})
    figure, (left, right) = plt.subplots(1, 2)
    assert plots.accuracy_by_severity(left, report) is left
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[0, 90], [1, 80], [2, 70]])
    assert plots.accuracy_by_radius(right, report) is right
    lines = [line.get_xydata() for line in right.lines]
    np.testing.assert_allclose(lines, [[[0, 90], [2, 50]], [[0, 90], [2, 40]], [[0, 90], [2, 40]]])
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["FGSM", "PGD", "worst case"]
    looks = {(line.get_marker(), line.get_linestyle()) for line in right.lines}
    assert len(looks) == 3  # told apart without color
    plt.close(figure)
