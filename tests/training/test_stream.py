"""Images that are read batch by batch train to the weights of images in memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from dampode import data
from dampode.data import Augmentation, ImageStream
from dampode.training import Recipe, fit, load_checkpoint
from tests.helpers.training import Interrupt, net, tiny, weights

RECIPE = Recipe(epochs=3, batch_size=16)


def streamed(**changes):
    images = tiny()
    dataset = TensorDataset(images.x_train, images.y_train)
    return replace(ImageStream("tiny", dataset, images.y_train, 2, images.augmentation), **changes)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_weights_are_those_of_images_in_memory(workers, micro_batches):
    recipe = replace(RECIPE, micro_batches=micro_batches)
    held, read = net(), net()
    expected = fit(held, tiny(), recipe, seed=3)
    history = fit(read, streamed(workers=workers), recipe, seed=3)
    assert (history.loss, history.accuracy) == (expected.loss, expected.accuracy)
    assert torch.equal(weights(read), weights(held))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_stream_resumes_to_the_same_weights(tmp_path, workers):
    path, images = tmp_path / "run.pt", streamed(workers=workers)
    whole, resumed = (nn.Sequential(Interrupt(-1), net()) for _ in range(2))
    expected = fit(whole, tiny(), RECIPE, seed=3)
    with pytest.raises(KeyboardInterrupt):  # 3 steps an epoch, so the fifth is the second of the second epoch
        fit(nn.Sequential(Interrupt(5), net()), images, RECIPE, seed=3, checkpoint=path, checkpoint_every=1)
    assert load_checkpoint(path)["position"]["step"] == 1
    assert fit(resumed, images, RECIPE, seed=3, checkpoint=path, resume=True).loss == expected.loss
    assert torch.equal(weights(resumed), weights(whole))
    flipped = tiny().x_train.flip(0), tiny().y_train.flip(0)
    other = streamed(dataset=TensorDataset(*flipped), y_train=flipped[1])
    with pytest.raises(ValueError, match=r"data\.sha256 is .* there and .* here"):
        fit(net(), other, RECIPE, seed=3, checkpoint=path, resume=True)


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for index, color in enumerate(np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)):
            path = tmp_path / part / "ab"[index % 2] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(color).save(path)
    return tmp_path


@pytest.mark.parametrize("transform", [None, transforms.PILToTensor(), transforms.ToTensor()])
def test_a_folder_of_images(folder, transform):
    read = ImageFolder(folder / "train", transform)
    stream = ImageStream("folder", read, torch.tensor(read.targets), len(read.classes), Augmentation(pad=1))
    assert stream.channels == 3
    held = replace(data.load(folder), augmentation=Augmentation(pad=1))
    trained = []
    for images in (held, stream):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
        fit(model, images, Recipe(epochs=2, batch_size=8))
        trained.append(weights(model))
    assert torch.equal(*trained)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(1, 4, 4), 0


DATASET = TensorDataset(tiny().x_train, tiny().y_train)


def pairs(change):
    """The images of `tiny`, of which the one of index 9 is changed."""
    found = list(DATASET)
    found[9] = change(*found[9])
    return found


class Flipped(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + torch.randint(2, x.shape, dtype=x.dtype), y


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": DataLoader(DATASET)}, TypeError, r"got DataLoader; .* of a DataLoader its \.dataset"),
        ({"dataset": Endless()}, TypeError, "dataset must give an image by its index.* got Endless"),
        ({"dataset": 3}, TypeError, "dataset must give an image by its index.* got int"),
        ({"dataset": []}, ValueError, "dataset must hold images, got none"),
        ({"dataset": [3] * 40}, TypeError, r"dataset\[0\] must be a pair \(image, label\), got int"),
        (
            {"dataset": [("a", 0)] * 40},
            TypeError,
            r"dataset\[0\] must be of type Tensor, got str; .*PILToTensor",
        ),
        (
            {"dataset": [(torch.zeros(4, 4), 0)] * 40},
            ValueError,
            r"must be \(C, H, W\), got shape \(4, 4\)",
        ),
        (
            {"dataset": Flipped(*DATASET.tensors)},
            ValueError,
            "must always give the same image, got two for index 0",
        ),
        ({"y_train": tiny().y_train[1:]}, ValueError, "40 images, labels of shape \\(39,\\)"),
        ({"y_train": tiny().y_train.tolist()}, TypeError, "train labels must be of type Tensor, got list"),
        ({"y_train": 1 - tiny().y_train}, ValueError, "y_train must hold the labels of the dataset, got 1 for index 0"),
        ({"num_classes": 1}, ValueError, "num_classes must be at least 2, got 1"),
        ({"workers": -1}, ValueError, "workers must be an int of at least 0, got -1"),
        ({"augmentation": None}, TypeError, "augmentation must be of type Augmentation"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(changes, error, message):
    with pytest.raises(error, match=message):
        streamed(**changes)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y: (x[:, 1:], y),
            r"got \(1, 3, 4\) torch.uint8 for index 9 and \(1, 4, 4\) torch.uint8",
        ),
        (lambda x, y: (x / 255, y), "one shape and dtype, got .* torch.float32 for index 9"),
        (lambda x, y: (x, 1 - y), "y_train must hold the labels of the dataset, got 1 for index 9"),
    ],
)
def test_a_wrong_image_is_refused_when_it_is_read(change, message, workers):
    images = streamed(dataset=pairs(change), workers=workers)
    with pytest.raises(ValueError, match=message):
        fit(net(), images, RECIPE)


def test_pixels_are_checked_when_they_are_read():
    images = streamed(dataset=[(x / 255 + (index == 9), y) for index, (x, y) in enumerate(DATASET)])
    with pytest.raises(ValueError, match=r"pixels of index 9 must lie in \[0, 1\]"):
        fit(net(), images, RECIPE)
