import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.stats import chi2, chisquare
from torchvision import transforms
from torchvision.transforms import functional as tv

from dampode import data
from dampode.robustness.inputs import as_pixels


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


def test_npz_gets_no_augmentation_and_digits_come_back(tmp_path):
    """The labels of digits that are mirrored, or shifted as far as CIFAR's images, are wrong."""
    digits = data.load("digits")
    path = tmp_path / "again.npz"
    np.savez(path, **{key: getattr(digits, key).numpy() for key in ("x_train", "y_train", "x_test", "y_test")})
    again = data.load(path)
    assert torch.equal(again.x_train, digits.x_train)
    assert torch.equal(again.y_test, digits.y_test)
    assert again.augmentation == data.Augmentation(pad=0, flip=False)
    assert torch.equal(again.augmentation(again.x_train, torch.Generator()), again.x_train)


@pytest.mark.parametrize("shape", [(6, 5, 4), (4, 8, 8), (2, 2, 3), (3, 5, 3)])
def test_the_layout_says_where_the_channels_lie(tmp_path, shape):
    x = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    path = saved(tmp_path, x_train=x, x_test=x[:8])
    assert np.array_equal(data.load(path, layout="NCHW").x_train.numpy(), x)
    last = data.load(path, layout="NHWC").x_train
    assert np.array_equal(last.numpy(), x.transpose(0, 3, 1, 2))
    assert last.is_contiguous()
    with pytest.raises(ValueError, match="must show which axis holds the channels"):
        data.load(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_clear_layout_is_recognized(tmp_path, channels):
    x = np.random.default_rng(0).integers(0, 256, (20, channels, 6, 5), dtype=np.uint8)
    for stored in (x, x.transpose(0, 2, 3, 1)):
        images = data.load(saved(tmp_path, x_train=stored, x_test=stored[:8]))
        assert np.array_equal(images.x_train.numpy(), x)


def test_a_layout_is_refused_where_it_means_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"layout is about the arrays of an \.npz file"):
        data.load("digits", layout="NHWC")
    with pytest.raises(ValueError, match='layout must be "NHWC", "NCHW" or None'):
        data.load(saved(tmp_path), layout="HWC")


def test_npz_grey_and_floating(tmp_path):
    grey = np.random.default_rng(0).random((20, 6, 5))
    images = data.load(saved(tmp_path, x_train=grey, x_test=grey[:8]))
    assert images.x_train.shape == (20, 1, 6, 5)
    assert images.x_train.dtype == torch.float32
    assert data.pixels(images.x_train) is images.x_train


def pickled(path):
    path.write_bytes(pickle.dumps({"x_train": 1}))


class FakeCIFAR10:
    """torchvision's dataset, with three images."""

    def __init__(self, root, train=True, download=False):
        self.data = np.full((3, 32, 32, 3), 7 if train else 9, np.uint8)
        self.data[0, 1, 2] = (10, 20, 30)
        self.targets, self.classes = [0, 9, 4], list("abcdefghij")


def test_cifar_is_torchvisions(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCIFAR10)
    images = data.load("cifar10")
    assert images.x_train.shape == (3, 3, 32, 32)
    assert images.x_train[0, :, 1, 2].tolist() == [10, 20, 30]
    assert images.y_test.tolist() == [0, 9, 4]
    assert (images.num_classes, images.augmentation) == (10, data.Augmentation(pad=4, flip=True))


def cifar_folder(tmp_path):
    """A folder of CIFAR-10's layout: the real reader refuses it by md5."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": 1}))
    return tmp_path


def test_cifar_that_is_missing_or_damaged(tmp_path):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(FileNotFoundError, match=f"{name} must be complete under"):
            data.load(name, root=tmp_path)
    with pytest.raises(FileNotFoundError, match="must be complete under"):
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
        with pytest.raises(ValueError, match="damaged, truncated or of another kind"):
            data.load(path)
    np.savez_compressed(path, **arrays())
    whole, worded = path.read_bytes(), 0
    for place in range(40, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            data.load(path)
        except ValueError as error:
            worded += str(path) in str(error)
    assert worded > 20  # every other flip fell where it does no harm; none ended in another kind of error
    for write in (lambda: np.save(path, np.zeros(3)), lambda: path.write_text("x_train"), lambda: pickled(path)):
        write()
        with pytest.raises(ValueError, match="of another kind"):
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
        ({"x_train": np.zeros((20, 6), np.uint8)}, r"\(N, H, W, C\), \(N, C, H, W\) or \(N, H, W\)"),
        (
            {"x_train": np.zeros((0, 6, 5, 3), np.uint8), "y_train": np.zeros(0, int)},
            "train images must be .* and not empty",
        ),
        ({"x_test": np.zeros((0, 6, 5, 3), np.uint8), "y_test": np.zeros(0, int)}, "not empty"),
        ({"x_test": np.zeros((8, 7, 5, 3), np.uint8)}, "must have one shape"),
        ({"y_train": np.arange(19)}, "one label per image"),
        ({"y_train": np.arange(20) - 1}, r"train labels must lie in \[0, 19\), got \[-1"),
        ({"y_train": np.arange(20) * 10**6}, "every label from 0 to its largest, 19000000"),
        ({"x_train": np.zeros((20, 4, 8, 8), np.uint8)}, r"which axis holds the channels, got shape \(20, 4, 8, 8\)"),
        ({"x_train": np.zeros((20, 3, 8, 3), np.uint8)}, 'pass layout="NHWC" or layout="NCHW"'),
        ({"x_test": np.zeros((8, 6, 5, 4), np.uint8)}, "x_test must show which axis holds the channels"),
        ({"x_train": np.ones((20, 6, 5, 3), np.uint8)}, r"0\.\.255, but the largest of the train images is 1"),
        ({"x_test": np.eye(30, dtype=np.uint8).reshape(10, 6, 5, 3)[:8]}, "largest of the test images is 1.*by 255"),
        ({"x_train": np.full((20, 6, 5, 3), "a")}, "uint8 or floating"),
        ({"y_test": (np.arange(8) % 4 / 1).astype(str)}, "must both be names or both numbers, got int64, <U"),
        ({"y_test": np.full(8, 4)}, r"test labels must lie in \[0, 4\), got \[4, 4\]"),
        ({"y_train": np.zeros(20)}, "int labels, got float64"),
        ({"y_test": np.zeros(8)}, "y_test must hold int labels, got float64"),
    ],
)
def test_values_are_refused_in_words(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(saved(tmp_path, **changes))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y[:, None],
        lambda y: np.eye(4)[y],
        lambda y: np.eye(4, dtype=np.uint8)[y],
        lambda y: np.array(["ant", "bee", "cat", "dog"])[y],
        lambda y: np.array(["ant", "bee", "cat", "dog"])[y][:, None],
        lambda y: np.array([b"ant", b"bee", b"cat", b"dog"])[y],
    ],
)
def test_labels_come_in_many_forms(tmp_path, form):
    plain = arrays()
    images = data.load(saved(tmp_path, **{key: form(plain[key]) for key in ("y_train", "y_test")}))
    assert images.num_classes == 4
    assert images.y_train.tolist() == plain["y_train"].tolist()
    assert images.y_test.tolist() == plain["y_test"].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.ones((20, 4))}, "must hold one 1 per row, .* name one class per image"),
        ({"y_train": np.array(["a", "b"] * 10), "y_test": np.array(["c"] * 8)}, r"one of y_train, got \['c'\]"),
        ({"y_train": np.array([1, 2] * 10, dtype=object)}, r"holds an object array.*np\.stack"),
        ({"x_train": np.full((20, 6, 5, 3), 255, np.uint16)}, r"uint16 images must have pixels in 0\.\.65535"),
        ({"x_train": np.full((20, 6, 5, 3), 1.0001)}, r"got \[1\.000\d+, 1\.000\d+\]"),
    ],
)
def test_other_forms_are_refused_with_their_cause(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(saved(tmp_path, **changes))


def test_medmnists_keys(tmp_path):
    names = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"}
    plain = arrays()
    path = tmp_path / "medmnist.npz"
    np.savez(path, val_images=plain["x_test"], **{names[key]: value for key, value in plain.items()})
    assert torch.equal(data.load(path).x_test, data.load(saved(tmp_path)).x_test)


def test_16_bits_are_scaled(tmp_path):
    x = np.random.default_rng(0).integers(0, 65536, (20, 6, 5), dtype=np.uint16)
    images = data.load(saved(tmp_path, x_train=x, x_test=x[:8]))
    np.testing.assert_allclose(images.x_train[:, 0].numpy(), x / 65535, rtol=1e-6)


def test_rounding_beyond_the_range_is_clamped(tmp_path):
    x = np.random.default_rng(0).random((20, 6, 5)).astype(np.float32)
    x[0, 0, :2] = (1 + 1e-6, -1e-6)
    images = data.load(saved(tmp_path, x_train=x, x_test=x[:8]))
    assert images.x_train[0, 0, 0, :2].tolist() == [1, 0]
    np.testing.assert_array_equal(images.x_train[1:, 0].numpy(), x[1:])


def held(x):
    return data.ImageData("d", x, torch.arange(3), x, torch.arange(3), 3).x_train


@pytest.mark.parametrize(
    ("entry", "dtype"),
    [(held, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)]
    + [(as_pixels, dtype) for dtype in (torch.float32, torch.float64)],
)
def test_one_rule_says_what_is_rounding(entry, dtype):
    rounding = max(16 * torch.finfo(torch.float32).eps, torch.finfo(dtype).eps)
    for excess, sound in ((rounding / 2, True), (rounding, True), (2 * rounding, False)):
        x = torch.rand(3, 1, 6, 5, dtype=dtype) / 2
        x[0, 0, 0, :2] = torch.tensor([1 + excess, -excess], dtype=dtype)
        if sound:
            assert entry(x)[0, 0, 0, :2].tolist() == [1, 0]
        else:
            with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\], got \[-.*, 1\.0.*\]"):
                entry(x)


def test_an_opaque_alpha_is_dropped(tmp_path):
    plain = arrays()
    opaque = {k: np.concatenate([plain[k], np.full_like(plain[k][..., :1], 255)], 3) for k in ("x_train", "x_test")}
    with pytest.warns(UserWarning, match="the last of 4 channels is an opaque alpha and is dropped"):
        images = data.load(saved(tmp_path, **opaque), layout="NHWC")
    assert torch.equal(images.x_train, data.load(saved(tmp_path)).x_train)


def test_svhns_files(tmp_path):
    plain = arrays()
    for part in ("train", "test"):
        labels = np.where(plain[f"y_{part}"] == 0, 10, plain[f"y_{part}"])[:, None]
        savemat(tmp_path / f"{part}_32x32.mat", {"X": plain[f"x_{part}"].transpose(1, 2, 3, 0), "y": labels})
    images = data.load(tmp_path / "train_32x32.mat")
    assert images.num_classes == 10
    assert images.y_train.tolist() == plain["y_train"].tolist()
    assert torch.equal(images.x_train, data.load(saved(tmp_path)).x_train)
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB")
    with pytest.raises(ValueError, match="must be a file of SVHN"):
        data.load(tmp_path / "train_32x32.mat")
    with pytest.raises(ValueError, match=r"must be SVHN's train_32x32\.mat"):
        data.load(tmp_path / "other.mat")


def pictures(folder, *, mode="RGB", sizes=((8, 6), (6, 9))):
    """Two classes with an image of each size in train/, and one image in test/; the pixels of a class are equal."""
    for part in ("train", "test"):
        for value, name in ((40, "ant"), (200, "bee")):
            (folder / part / name).mkdir(parents=True)
            for k, size in enumerate(sizes):
                image = Image.new("RGB", size, (value, value // 2, 0)).convert(mode)
                image.save(folder / part / name / f"{k}.png")
    return folder


def test_a_folder_of_classes(tmp_path):
    folder = pictures(tmp_path)
    with pytest.raises(ValueError, match=r"must have one size, got 2 from .*; pass size=32"):
        data.load(folder)
    images = data.load(folder, size=5)
    assert images.x_train.shape == (4, 3, 5, 5)
    assert images.y_train.tolist() == [0, 0, 1, 1]
    assert (images.x_train[2:] == torch.tensor([200, 100, 0]).view(3, 1, 1)).all()
    assert images.augmentation == data.Augmentation(pad=0, flip=False)
    (folder / "train" / "ant" / "2.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"2\.png must be a whole image"):
        data.load(folder, size=5)


def test_modes_of_a_folders_images(tmp_path):
    assert data.load(pictures(tmp_path / "gray", mode="L", sizes=((8, 6),))).x_train.shape == (2, 1, 6, 8)
    with pytest.warns(UserWarning, match="opaque alpha channels are dropped"):
        images = data.load(pictures(tmp_path / "alpha", mode="RGBA", sizes=((8, 6),)))
    assert images.x_train.shape == (2, 3, 6, 8)
    Image.new("RGBA", (8, 6), (0, 0, 0, 9)).save(tmp_path / "alpha" / "test" / "ant" / "9.png")
    with pytest.warns(UserWarning, match="opaque alpha"), pytest.raises(ValueError, match=r"9\.png must be opaque"):
        data.load(tmp_path / "alpha")
    with pytest.raises(ValueError, match=r"must hold train/CLASS/ and test/CLASS/, it lacks train/"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="size is about a folder of images"):
        data.load("digits", size=8)


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


def crops(x, pad, mode):
    """Every result that torchvision's RandomCrop and RandomHorizontalFlip can give for x (C, H, W), by its draw."""
    height, width = x.shape[1:]
    padded = tv.pad(x, [pad] * 4, padding_mode={"zero": "constant", "reflect": "reflect"}[mode])
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = tv.crop(padded, top, left, height, width)
            yield (top, left, 0), crop
            yield (top, left, 1), tv.hflip(crop)


@pytest.mark.parametrize(("pad", "mode"), [(4, "zero"), (2, "reflect"), (0, "zero")])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_every_draw_is_torchvisions_result(pad, mode, kind):
    x = torch.arange(3 * 6 * 5).view(3, 6, 5).to(kind)
    augmentation = data.Augmentation(pad, mode=mode)
    draws, expected = zip(*crops(x, pad, mode), strict=True)
    got = augmentation.apply(x.expand(len(draws), -1, -1, -1), torch.tensor(draws).T)
    assert got.dtype == kind
    assert torch.equal(got, torch.stack(expected))


def test_draws_are_uniform_and_independent():
    """Chi-square over all 162 outcomes of pad 4 with flip, false alarm 1e-6; torchvision draws the same way."""
    n, outcomes = 40_000, 9 * 9 * 2
    top, left, mirrored = data.Augmentation().draw(n, torch.Generator().manual_seed(0))
    counts = ((top * 9 + left) * 2 + mirrored).bincount(minlength=outcomes).double()
    assert ((counts - n / outcomes) ** 2 * outcomes / n).sum() < chi2.isf(1e-6, outcomes - 1)
    # and the images of a batch draw apart: neighbours differ as often as independent draws do
    same = (top[1:] == top[:-1]).double().sum().item()
    assert abs(same - n / 9) < 5 * (n * 8 / 81) ** 0.5


def test_torchvisions_transforms_draw_uniformly_too():
    """The same chi-square on RandomCrop and RandomHorizontalFlip themselves, over the 18 outcomes of pad 1."""
    x = torch.arange(1, 13, dtype=torch.uint8).view(1, 3, 4)
    names = {tuple(crop.flatten().tolist()): i for i, (_, crop) in enumerate(crops(x, 1, "zero"))}
    assert len(names) == 18
    transform = transforms.Compose([transforms.RandomCrop((3, 4), padding=1), transforms.RandomHorizontalFlip()])
    theirs = [names[tuple(transform(x).flatten().tolist())] for _ in range(2000)]
    ours = data.Augmentation(1)(x.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0)).flatten(1)
    for drawn in (theirs, [names[tuple(image)] for image in ours.tolist()]):
        assert chisquare(np.bincount(drawn, minlength=18)).pvalue > 1e-6


def test_augmentations_are_checked():
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="pad must be below the image's size to reflect it, got 4 for 4x4"):
        data.Augmentation(4, mode="reflect")(x, torch.Generator())
    with pytest.raises(ValueError, match="mode must be zero or reflect, got 'edge'"):
        data.Augmentation(mode="edge")


def test_augmentation_off_is_the_identity():
    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(data.Augmentation(pad=0, flip=False)(x, torch.Generator()), x)
    with pytest.raises(ValueError, match="pad must be an int of at least 0"):
        data.Augmentation(pad=-1)


@pytest.mark.parametrize(
    ("wrong", "kind", "words"),
    [
        ({"x_train": np.zeros((2, 1, 2, 2))}, TypeError, "train images must be of type Tensor"),
        ({"y_test": [0, 1]}, TypeError, "test labels must be of type Tensor"),
        ({"num_classes": 1}, ValueError, "num_classes must be at least 2"),
        ({"augmentation": None}, TypeError, "augmentation must be of type Augmentation"),
    ],
)
def test_parts_of_another_type_are_refused_in_words(wrong, kind, words):
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    parts = {"name": "n", "x_train": x, "y_train": y, "x_test": x, "y_test": y, "num_classes": 2}
    with pytest.raises(kind, match=words):
        data.ImageData(**{**parts, **wrong})
