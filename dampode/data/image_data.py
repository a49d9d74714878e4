"""A labelled image data set that lies in memory as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive_int
from dampode._identity import fingerprint
from dampode._pixels import in_unit_range
from dampode.data.augmentation import Augmentation

__all__ = ["ARRAYS", "ImageData", "checked_images", "pixels", "require_class_labels"]

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
"""The arrays of a data set, as its fields and as the keys of an .npz file."""


@dataclass(frozen=True)
class ImageData:
    """A labelled training set and test set.

    Args:
        name: the name in reports.
        x_train, x_test: images (N, C, H, W), uint8 in 0..255 or floating in [0, 1]. Rounding up to 1.9e-6
            outside is clamped.
        y_train, y_test: labels (N,), int64 in [0, num_classes).
        num_classes: number of classes, at least 2.
        augmentation: used in training unless the recipe has one of its own. The default changes nothing.

    Raises:
        ValueError: a shape, a pixel or a label is out of range, a set is empty, images and labels differ in number, or
            the largest pixel of uint8 images is 1.
        TypeError: images or labels are not tensors or have another dtype, num_classes is not an int, or augmentation
            is not an `Augmentation`.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    augmentation: Augmentation = Augmentation(pad=0, flip=False)

    def __post_init__(self) -> None:
        """Check every value once, so that no later code has to."""
        require_instance(self.augmentation, Augmentation, "augmentation")
        for part in ("train", "test"):
            images = checked_images(part, getattr(self, f"x_{part}"))
            object.__setattr__(self, f"x_{part}", images)
            require_class_labels(part, getattr(self, f"y_{part}"), len(images), self.num_classes)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                "train and test images must have one shape, "
                f"got {tuple(self.x_train.shape[1:])} and {tuple(self.x_test.shape[1:])}"
            )

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.x_train.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.x_train.device

    def digest(self) -> str:
        """SHA-256 of the training set."""
        return fingerprint(self.x_train, self.y_train)

    def batches(self, chosen: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Training images and labels, for each tensor of indices."""
        return ((self.x_train[indices], self.y_train[indices]) for indices in chosen)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the training pixels in [0, 1], each (C,)."""
        x = pixels(self.x_train).double().transpose(0, 1).flatten(1)  # (C, N H W)
        return tuple(x.mean(1).tolist()), tuple(x.std(1, correction=0).tolist())

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> "ImageData":
        """At most ``train`` and ``test`` images, drawn at random without replacement; None keeps all."""
        generator = torch.Generator().manual_seed(seed)
        parts = {}
        for part, size in (("train", train), ("test", test)):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if size is not None:
                require_positive_int(size, f"the number of {part} images")
                chosen = torch.randperm(len(x), generator=generator)[:size]
                x, y = x[chosen], y[chosen]
            parts[part] = (x, y)
        (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
        return replace(self, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data on another device."""
        moved = {key: getattr(self, key).to(device) for key in ARRAYS}
        return replace(self, **moved)


def pixels(x: Tensor) -> Tensor:
    """Images as floating pixels in [0, 1]: uint8 is divided by 255, floating images are returned as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def checked_images(part: str, x: Tensor) -> Tensor:
    """The images of one part after a check of their form, in [0, 1] if they are floating."""
    require_instance(x, Tensor, f"{part} images", "use torch.from_numpy")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"{part} images must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
    if x.is_floating_point():
        return in_unit_range(x, f"{part} pixels")
    if x.dtype != torch.uint8:
        raise TypeError(f"{part} images must be uint8 or floating in [0, 1], got {x.dtype}")
    if x.max() == 1:
        raise ValueError(
            f"uint8 images must have pixels in 0..255, but the largest of the {part} images is 1, which is almost "
            "black; multiply images of 0 and 1 by 255, or convert them to float32"
        )
    return x


def require_class_labels(part: str, y: Tensor, n: int, num_classes: int) -> None:
    """Raise unless one part has n labels of at least 2 classes."""
    require_positive_int(num_classes, "num_classes")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    require_instance(y, Tensor, f"{part} labels", "use torch.tensor")
    if y.shape != (n,):
        raise ValueError(f"{part} needs one label per image: {n} images, labels of shape {tuple(y.shape)}")
    if y.dtype != torch.int64:
        raise TypeError(f"{part} labels must be int64, got {y.dtype}; convert them with .long()")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"{part} labels must lie in [0, {num_classes}), got [{y.min()}, {y.max()}]")
