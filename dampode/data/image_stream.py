"""A labelled training set whose images are read batch by batch."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dampode._checks import require_instance
from dampode._identity import fingerprint
from dampode._pixels import in_unit_range
from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData, checked_images, require_class_labels

__all__ = ["ImageStream", "IndexedImages", "TrainingData"]

_FIRST = 8
"""The number of images that are read before training."""


class IndexedImages(Protocol):
    """A dataset that gives an image and its label by their index, such as torchvision's ImageFolder."""

    def __getitem__(self, index: int, /) -> Any:
        """The image and the label of an index."""

    def __len__(self) -> int:
        """The number of images."""


@dataclass(frozen=True)
class ImageStream:
    """A labelled training set for `fit` whose images need not fit into memory.

    The order and the augmentation are drawn as for `ImageData`, so both give the same weights for the same images.

    Args:
        name: the name in reports.
        dataset: ``dataset[i]`` is (image, label), as of torchvision's ImageFolder. Images are PIL images or tensors
            (C, H, W), uint8 in 0..255 or floating in [0, 1], of one shape and dtype. An index always gives the same
            image: random transforms belong into the augmentation.
        y_train: the labels of the dataset, (N,), int64 in [0, num_classes). Batches are moved to their device.
        num_classes: number of classes, at least 2.
        augmentation: used in training unless the recipe has one of its own. The default changes nothing.
        workers: processes that read the images ahead; 0 reads them in the training process.

    Raises:
        ValueError: an argument is out of range, or one of the first 8 images is not as described, is random or has
            another label. Every later image is checked when it is read, but for randomness.
        TypeError: an argument is of another type; the dataset has no indices.
    """

    name: str
    dataset: IndexedImages
    y_train: Tensor
    num_classes: int
    augmentation: Augmentation = Augmentation(pad=0, flip=False)
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the arguments and read the first images, each of them twice."""
        require_instance(self.augmentation, Augmentation, "augmentation")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 0:
            raise ValueError(f"workers must be an int of at least 0, got {self.workers!r}")
        if isinstance(self.dataset, DataLoader | IterableDataset) or not isinstance(self.dataset, Sized):
            raise TypeError(
                "dataset must give an image by its index, because the seed of a run defines the order, got "
                f"{type(self.dataset).__name__}; give an object with __getitem__ and __len__, of a DataLoader its "
                ".dataset"
            )
        if len(self.dataset) == 0:
            raise ValueError("dataset must hold images, got none")
        require_class_labels("train", self.y_train, len(self.dataset), self.num_classes)
        first, again = self._first_images(), self._first_images()
        checked_images("train", first)
        if not torch.equal(first, again):
            index = int((first != again).flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"an index must always give the same image, got two for index {index}; leave out random transforms, "
                "and choose an augmentation"
            )

    @property
    def channels(self) -> int:
        """C of the images."""
        return self._first_images().shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.y_train.device

    def to(self, device: torch.device | str) -> "ImageStream":
        """The same data, whose batches lie on another device."""
        return replace(self, y_train=self.y_train.to(device))

    def digest(self) -> str:
        """SHA-256 of all labels and of the first 8 images."""
        return fingerprint(self._first_images(), self.y_train)

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images and labels, for each tensor of indices."""
        images = DataLoader(
            _Images(self.dataset, self.y_train.tolist()),
            batch_sampler=[indices.tolist() for indices in chosen],
            num_workers=self.workers,
            collate_fn=torch.stack,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws seeds for its workers; torch's own draws stay as they are
        )
        for indices, x in zip(chosen, images, strict=True):
            yield x.to(self.device, non_blocking=True), self.y_train[indices]

    def _first_images(self) -> Tensor:
        """The first images, (n, C, H, W)."""
        images = _Images(self.dataset, self.y_train.tolist())
        return torch.stack([images[index] for index in range(min(_FIRST, len(self.dataset)))])


TrainingData = ImageData | ImageStream
"""What `fit` trains on."""


class _Images(Dataset[Tensor]):
    """The images of a dataset, each of which is checked when it is read.

    Args:
        dataset: images and labels.
        labels: the labels that the dataset must give.
    """

    def __init__(self, dataset: IndexedImages, labels: list[int]) -> None:
        self.dataset, self.labels = dataset, labels
        first, _ = _read(dataset, 0)
        self.shape, self.dtype = first.shape, first.dtype

    def __getitem__(self, index: int) -> Tensor:
        """The image of an index, (C, H, W)."""
        image, label = _read(self.dataset, index)
        if image.shape != self.shape or image.dtype != self.dtype:
            raise ValueError(
                f"images must have one shape and dtype, got {tuple(image.shape)} {image.dtype} for index {index} and "
                f"{tuple(self.shape)} {self.dtype} for index 0; let the dataset resize and crop them"
            )
        if label != self.labels[index]:
            raise ValueError(
                f"y_train must hold the labels of the dataset, got {self.labels[index]} for index {index}, where the "
                f"dataset gives {label}; use torch.tensor(dataset.targets)"
            )
        return in_unit_range(image, f"pixels of index {index}") if image.is_floating_point() else image


def _read(dataset: IndexedImages, index: int) -> tuple[Tensor, int]:
    """The image (C, H, W) and the label of an index."""
    sample = dataset[index]
    if not isinstance(sample, Sequence) or len(sample) != 2:
        raise TypeError(f"dataset[{index}] must be a pair (image, label), got {type(sample).__name__}")
    image, label = sample
    if isinstance(image, Image.Image):
        from torchvision.transforms.functional import pil_to_tensor  # torchvision takes a second to import

        image = pil_to_tensor(image)
    require_instance(image, Tensor, f"the image of dataset[{index}]", "use torchvision's PILToTensor as transform")
    if image.ndim != 3 or image.numel() == 0:
        raise ValueError(f"the image of dataset[{index}] must be (C, H, W), got shape {tuple(image.shape)}")
    return image, int(label)
