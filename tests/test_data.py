import pickle

import numpy as np
import pytest
import torch

from dampode import data


def arrays(**changes):
    rng = np.random.default_rng(0)
    whole = {
        "x_train": rng.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": rng.integers(0, 256, (8, 6, 5, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }
    return whole | changes


def saved(tmp_path, **changes):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_digits_are_the_real_ones():
    images = data.load("digits")
    assert images.x_train.shape == (1437, 1, 8, 8)
    assert images.x_test.shape == (360, 1, 8, 8)
    assert images.num_classes == 10
    assert images.y_test.bincount().min() >= 34
    assert images.augmentation == data.Augmentation(pad=1, flip=False)
    again = data.load("digits")
    assert torch.equal(again.x_train, images.x_train)


def test_npz_is_channels_first(tmp_path):
    images = data.load(saved(tmp_path))
    assert images.x_train.shape == (20, 3, 6, 5)
    expected = arrays()["x_train"][3, 2, 1]
    np.testing.assert_array_equal(images.x_train[3, :, 2, 1].numpy(), expected)
    assert (images.channels, images.num_classes) == (3, 4)


def test_npz_grey_and_floating(tmp_path):
    grey = np.random.default_rng(0).random((20, 6, 5))
    images = data.load(saved(tmp_path, x_train=grey, x_test=grey[:8]))
    assert images.x_train.shape == (20, 1, 6, 5)
    assert images.x_train.dtype == torch.float32
    assert data.pixels(images.x_train) is images.x_train


def cifar_folder(tmp_path):
    """A folder of CIFAR-10's layout: the real reader refuses it by md5."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": 1}))
    return tmp_path


def test_cifar_that_is_missing_or_damaged(tmp_path):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(FileNotFoundError, match=f"{name} must lie whole under"):
            data.load(name, root=tmp_path)
    with pytest.raises(FileNotFoundError, match="must lie whole under"):
        data.load("cifar10", root=cifar_folder(tmp_path))


def test_files_are_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="must exist"):
        data.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"digits, cifar10, cifar100 or the path of an \.npz"):
        data.load("mnist")
    path = saved(tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or truncated"):
            data.load(path)
    np.savez(path, x_train=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(ValueError, match="lacks y_train, x_test, y_test"):
        data.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((20, 6, 5, 3), 1.5)}, r"pixels must lie in \[0, 1\], got \[1.5, 1.5\]"),
        ({"x_train": np.full((20, 6, 5, 3), -0.1)}, r"pixels must lie in \[0, 1\]"),
        ({"x_test": np.full((8, 6, 5, 3), np.nan)}, r"pixels must lie in \[0, 1\]"),
        ({"x_train": np.zeros((20, 6, 5, 3), np.int32)}, "uint8 or floating"),
        ({"x_train": np.zeros((20, 6), np.uint8)}, r"\(N, H, W, C\) or \(N, H, W\)"),
        ({"x_train": np.zeros((0, 6, 5, 3), np.uint8), "y_train": np.zeros(0, int)}, "int labels, got"),
        ({"x_test": np.zeros((0, 6, 5, 3), np.uint8), "y_test": np.zeros(0, int)}, "not empty"),
        ({"x_test": np.zeros((8, 7, 5, 3), np.uint8)}, "must have one shape"),
        ({"y_train": np.arange(19)}, "one label an image"),
        ({"y_train": np.arange(20) - 1}, r"train labels must lie in \[0, 19\), got \[-1"),
        ({"y_test": np.full(8, 4)}, r"test labels must lie in \[0, 4\), got \[4, 4\]"),
        ({"y_train": np.zeros(20)}, "int labels, got float64"),
        ({"y_test": np.zeros(8)}, "labels must be int64, got torch.float64"),
    ],
)
def test_values_are_refused_in_words(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(saved(tmp_path, **changes))


def test_subset_draws_without_replacement(tmp_path):
    images = data.load(saved(tmp_path))
    part = images.subset(train=7, test=3)
    assert (len(part.x_train), len(part.x_test)) == (7, 3)
    keys = {tuple(x.flatten().tolist()) for x in part.x_train}
    assert len(keys) == 7
    assert len(images.subset().x_train) == 20
    with pytest.raises(ValueError, match="number of train images must be a positive int"):
        images.subset(train=0)


def test_statistics_are_of_the_training_pixels(tmp_path):
    images = data.load(saved(tmp_path))
    mean, std = images.statistics()
    x = arrays()["x_train"].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, x.std(0), rtol=1e-6)


def test_augmentation_is_pad_crop_flip():
    """Every result is one of the (2 pad + 1)² crops of the padded image or of its mirror, and all of them occur."""
    x = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4)
    padded = torch.nn.functional.pad(x, (1,) * 4)
    crops = [padded[..., i : i + 3, j : j + 4] for i in range(3) for j in range(3)]
    # mirrored before the crop, as torchvision's order crop-then-flip gives the same set
    allowed = {tuple(c.flatten().tolist()) for crop in crops for c in (crop, crop.flip(-1))}
    out = data.Augmentation(pad=1, flip=True)(x.expand(600, -1, -1, -1), torch.Generator().manual_seed(0))
    assert (out.dtype, out.shape) == (torch.uint8, (600, 1, 3, 4))
    assert {tuple(o.flatten().tolist()) for o in out} == allowed
    counts = torch.unique(out.flatten(1), dim=0, return_counts=True)[1]
    assert counts.min() > 10  # 600 draws over 18 equal chances


def test_augmentation_off_is_the_identity():
    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(data.Augmentation(pad=0, flip=False)(x, torch.Generator()), x)
    with pytest.raises(ValueError, match="pad must be an int of at least 0"):
        data.Augmentation(pad=-1)
