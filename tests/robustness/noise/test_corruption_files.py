"""All 15 + 4 corruptions from the files of CIFAR-C, and ImageNet-C's folders, through a report."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.utils import save_image

from dampode.robustness import CORRUPTIONS, EXTRA_CORRUPTIONS, CifarCFiles, ImageNetCFiles, evaluate

ALL = CORRUPTIONS + EXTRA_CORRUPTIONS
LABELS = torch.arange(10_000) % 2


class Bright(nn.Module):
    """Class 1 if the first pixel is brighter than 1/2."""

    def forward(self, x):
        bright = x[:, 0, 0, 0] - 0.5
        return torch.stack([-bright, bright], 1)


@pytest.fixture(scope="module")
def cifar_c(tmp_path_factory):
    """Corruption k makes the first 2 k (s - 1) images of severity s wrong; sparse files, so that they cost little."""
    folder = tmp_path_factory.mktemp("cifar_c")
    for k, name in enumerate(ALL):
        images = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(1, 6):
            right = LABELS[:100].bool().numpy().copy()
            right[: 2 * k * (severity - 1)] ^= True
            images[(severity - 1) * 10_000 :][:100, 0, 0, 0] = 255 * right
    np.save(folder / "labels.npy", LABELS.repeat(5).numpy())
    return folder


@pytest.fixture(scope="module")
def source(cifar_c):
    return CifarCFiles(cifar_c, LABELS[:100], images=torch.arange(100))


def errors(k):
    """Errors of corruption k at severities 1 to 5."""
    return [min(2 * k * s, 100) / 100 for s in range(5)]


def test_all_corruptions_are_read_from_the_files(source):
    assert source.names == ALL
    x = torch.zeros(100, 3, 32, 32)
    x[:, 0, 0, 0] = LABELS[:100].float()
    report = evaluate(Bright().eval(), x, LABELS[:100], attacks={}, noise=source)
    assert report.names("noise") == list(ALL)
    for k, name in enumerate(ALL):
        assert [1 - report.column(name, s).accuracy for s in range(1, 6)] == pytest.approx(errors(k))
    expected = np.mean([errors(k) for k in range(15)])
    assert report.mean_corruption_error() == pytest.approx(expected)
    assert f"over the 15 corruptions and 5 severities: {100 * expected:.1f} %" in report.markdown()
    means = [1 - np.mean([errors(k)[s] for k in range(19)]) for s in range(5)]
    assert "| mean | " + " | ".join(f"{100 * m:.1f}" for m in means) in report.markdown()

    some = replace(report, columns=tuple(c for c in report.columns if (c.name, c.strength) != ("fog", 3)))
    with pytest.raises(KeyError, match="needs severities 1 to 5 of all 15 corruptions; fog are missing"):
        some.mean_corruption_error()
    assert "15 corruptions" not in replace(report, columns=report.columns[:30]).markdown()


def test_errors_relative_to_a_reference_are_averaged_over_the_corruptions(source):
    x = torch.zeros(100, 3, 32, 32)
    settings = {"attacks": {}, "noise": source, "noises": CORRUPTIONS}

    class Twice(Bright):
        def forward(self, x):
            return super().forward(x).flip(1)

    wrong, right = (evaluate(m.eval(), x, LABELS[:100], **settings) for m in (Twice(), Bright()))
    expected = np.mean([np.mean(errors(k)) / np.mean([1 - e for e in errors(k)]) for k in range(15)])
    assert right.mean_corruption_error(wrong) == pytest.approx(expected)


def test_only_the_corruptions_in_the_folder_are_measured_by_default(cifar_c, tmp_path):
    for name in ("labels.npy", "fog.npy", "saturate.npy"):
        (tmp_path / name).hardlink_to(cifar_c / name)
    source = CifarCFiles(tmp_path, LABELS[:100], images=torch.arange(100))
    assert source.names == ("fog", "saturate")
    x = torch.zeros(100, 3, 32, 32)
    report = evaluate(Bright().eval(), x, LABELS[:100], attacks={}, noise=source, severities=[2])
    assert report.names("noise") == ["fog", "saturate"]


def test_labels_without_a_corruption_are_refused(cifar_c, tmp_path):
    (tmp_path / "labels.npy").hardlink_to(cifar_c / "labels.npy")
    with pytest.raises(FileNotFoundError, match=r"must hold a corruption beside labels.npy, such as .*, got none"):
        CifarCFiles(tmp_path, LABELS[:100], images=torch.arange(100))


@pytest.fixture(scope="module")
def imagenet_c(tmp_path_factory):
    """Three classes of two images, two corruptions, two severities: the first pixel tells class and severity."""
    folder = tmp_path_factory.mktemp("imagenet_c")
    for name in ("fog", "speckle_noise"):
        for severity in (1, 2):
            for label, wordnet in enumerate(("n01", "n02", "n03")):
                target = folder / name / str(severity) / wordnet
                target.mkdir(parents=True)
                for k in range(2):
                    image = torch.zeros(3, 4, 5)
                    image[:, 0, 0] = (100 * severity + 10 * label + k) / 255
                    save_image(image, target / f"ILSVRC2012_val_{k}.png")
    return folder


def test_folders_are_read_in_the_order_of_image_folder(imagenet_c):
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    source = ImageNetCFiles(imagenet_c, y)
    assert (source.names, source.n) == (("fog", "speckle_noise"), 6)
    block = source.block("fog", 2, 0)
    assert block.shape == (6, 3, 4, 5)
    assert (255 * block[:, 1, 0, 0]).round().tolist() == [200, 201, 210, 211, 220, 221]
    chosen = ImageNetCFiles(imagenet_c, y[[4, 1]], images=torch.tensor([4, 1]))
    assert torch.equal(chosen.block("fog", 2, 0), block[[4, 1]])
    assert torch.equal(source.select("fog", 2, torch.tensor([1, 4])), block[[1, 4]])
    assert repr(source) == repr(ImageNetCFiles(imagenet_c, y)) != repr(chosen)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).eval()
    report = evaluate(model, torch.rand(6, 3, 4, 5), y, attacks={}, noise=source, severities=[1, 2])
    assert report.settings["noise"].startswith("ImageNet-C, files")
    assert len(report.strengths("noise")) == 2


def test_folders_that_do_not_fit_end_in_words(imagenet_c, tmp_path):
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(FileNotFoundError, match="must hold a folder per corruption, such as gaussian_noise/1"):
        ImageNetCFiles(tmp_path, y)
    with pytest.raises(ValueError, match="must be the classes of the folders"):
        ImageNetCFiles(imagenet_c, y.flip(0))
    source = ImageNetCFiles(imagenet_c, y)
    x, model = torch.rand(6, 3, 4, 5), nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).eval()
    with pytest.raises(FileNotFoundError, match=r"fog/3/n01/ILSVRC2012_val_0\.png must exist.* 6 of 6 are missing"):
        evaluate(model, x, y, attacks={}, noise=source)
    (tmp_path / "fog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"fog must hold a folder per severity, 1 to 5, got none"):
        ImageNetCFiles(tmp_path, y)
    for k, size in enumerate((4, 5)):
        (tmp_path / "fog" / "1" / "a").mkdir(parents=True, exist_ok=True)
        save_image(torch.zeros(3, size, size), tmp_path / "fog" / "1" / "a" / f"{k}.png")
    uneven = ImageNetCFiles(tmp_path, y[:2])
    with pytest.raises(ValueError, match=r"must have one size, got \(3, 5, 5\) and \(3, 4, 4\)"):
        uneven.block("fog", 1, 0)
    (tmp_path / "fog" / "1" / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0\.png must be a whole image; it is damaged"):
        uneven.block("fog", 1, 0)


def test_without_torchvision_the_folders_are_refused_in_words(imagenet_c, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match="images in folders are read by torchvision"):
        ImageNetCFiles(imagenet_c, torch.tensor([0, 0, 1, 1, 2, 2]))
