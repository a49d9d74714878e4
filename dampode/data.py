"""Image classification data held whole: CIFAR-10/100, digits, .npz files; augmentation in batches."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dampode._checks import require_instance, require_positive_int

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Augmentation:
    """Random translation (zero padding, then a random crop of the old size) and horizontal flip.

    Args:
        pad: pixels of padding on every side; 0 for no translation.
        flip: whether an image is mirrored with probability 1/2.

    Source: Yang et al. 2020, Sec. 4.1 (pad 4, crop, flip).
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad must be an int of at least 0, got {self.pad!r}")
        require_instance(self.flip, bool, "flip")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images (N, C, H, W), each by its own draw; dtype, device and shape are kept."""
        n, channels, height, width = x.shape
        device = x.device
        shift = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator, device=device)
        mirrored = torch.rand(n, 1, generator=generator, device=device) < (0.5 if self.flip else 0.0)
        rows = shift[0] + torch.arange(height, device=device)  # (N, H)
        cols = torch.arange(width, device=device).expand(n, width)
        cols = shift[1] + torch.where(mirrored, width - 1 - cols, cols)  # (N, W)
        image = torch.arange(n, device=device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=device).view(1, channels, 1, 1)
        return F.pad(x, (self.pad,) * 4)[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


@dataclass(frozen=True)
class ImageData:
    """A labelled train and test set, held whole.

    Args:
        name: for reports.
        x_train, x_test: images (N, C, H, W), uint8 in 0..255 or floating in [0, 1].
        y_train, y_test: labels (N,), int64 in [0, num_classes).
        num_classes: number of classes, at least 2.
        augmentation: what fits this data in training.

    Raises:
        ValueError: a shape, a pixel or a label is out of range, a set is empty, or images and labels differ in number.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        """Check every value once, so that nothing later has to."""
        require_positive_int(self.num_classes, "num_classes")
        _check_set("train", self.x_train, self.y_train, self.num_classes)
        _check_set("test", self.x_test, self.y_test, self.num_classes)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                "train and test images must have one shape, "
                f"got {tuple(self.x_train.shape[1:])} and {tuple(self.x_test.shape[1:])}"
            )

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.x_train.shape[1]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training pixels in [0, 1]."""
        x = pixels(self.x_train).double().transpose(0, 1).flatten(1)  # (C, N H W)
        return tuple(x.mean(1).tolist()), tuple(x.std(1, correction=0).tolist())

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> "ImageData":
        """A random draw without replacement of at most ``train`` and ``test`` images; None keeps all."""
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
        moved = {key: getattr(self, key).to(device) for key in NPZ_KEYS}
        return replace(self, **moved)


def pixels(x: Tensor) -> Tensor:
    """Images as floating pixels in [0, 1]: uint8 is divided by 255, floating images pass."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def load(name: str | Path, *, root: str | Path = "data", download: bool = False) -> ImageData:
    """Load a data set.

    Args:
        name: "digits" (scikit-learn's 1,797 real 8x8 images, no download), "cifar10", "cifar100" (torchvision), or
            the path of an .npz with x_train, y_train, x_test, y_test: images (N, H, W, C) or (N, H, W), uint8 or
            floating in [0, 1].
        root: folder of the CIFAR files.
        download: whether torchvision may download CIFAR.

    Raises:
        ValueError: no such data set, a file is damaged or has other keys, or values are out of range.
        FileNotFoundError: the file or the CIFAR folder is not there.
    """
    if str(name) == "digits":
        return _digits()
    if str(name) in ("cifar10", "cifar100"):
        return _cifar(str(name), Path(root), download)
    if str(name).endswith(".npz"):
        return _npz(Path(name))
    raise ValueError(f"data must be digits, cifar10, cifar100 or the path of an .npz file, got {str(name)!r}")


def _digits() -> ImageData:
    """The digits, 1,437 train and 360 test images, split once and for all and stratified by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(x, labels, test_size=360, random_state=0, stratify=labels)
    return _from_arrays("digits", x_train, y_train, x_test, y_test, 10, Augmentation(pad=1, flip=False))


def _cifar(name: str, root: Path, download: bool) -> ImageData:
    """CIFAR-10 or CIFAR-100 through torchvision, which checks the files' md5."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        train, test = (dataset(str(root), train=part, download=download) for part in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} must lie whole under {root} ({error}); allow the download or name its folder"
        ) from None
    classes = len(train.classes)
    return _from_arrays(
        name, train.data, np.array(train.targets), test.data, np.array(test.targets), classes, Augmentation()
    )


def _npz(path: Path) -> ImageData:
    """An .npz file of the user's."""
    if not path.is_file():
        raise FileNotFoundError(f"data file {path} must exist; got no such file")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in NPZ_KEYS if key not in archive]
            if missing:
                raise ValueError(f"{path} must hold {', '.join(NPZ_KEYS)}; it lacks {', '.join(missing)}")
            x_train, y_train, x_test, y_test = (archive[key] for key in NPZ_KEYS)
    except (zipfile.BadZipFile, EOFError, OSError, zipfile.LargeZipFile) as error:
        raise ValueError(f"{path} must be a whole .npz file; it is damaged or truncated ({error})") from None
    if not np.issubdtype(y_train.dtype, np.integer) or y_train.size == 0:
        raise ValueError(f"y_train of {path} must hold int labels, got {y_train.dtype} of shape {y_train.shape}")
    classes = max(int(y_train.max()) + 1, 2)
    return _from_arrays(path.stem, x_train, y_train, x_test, y_test, classes, Augmentation())


def _from_arrays(
    name: str, x_train: Any, y_train: Any, x_test: Any, y_test: Any, num_classes: int, augmentation: Augmentation
) -> ImageData:
    """Arrays (N, H, W, C) or (N, H, W) as `ImageData`."""
    images = [_channels_first(part, x) for part, x in (("x_train", x_train), ("x_test", x_test))]
    labels = [torch.from_numpy(np.asarray(y)) for y in (y_train, y_test)]
    labels = [y if y.is_floating_point() or y.dtype == torch.bool else y.long() for y in labels]
    return ImageData(name, images[0], labels[0], images[1], labels[1], num_classes, augmentation)


def _channels_first(part: str, x: np.ndarray[Any, Any]) -> Tensor:
    """(N, H, W, C) or (N, H, W) to a contiguous (N, C, H, W); float64 becomes float32."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{part} must hold images (N, H, W, C) or (N, H, W), got shape {x.shape}")
    images = torch.from_numpy(np.ascontiguousarray(x if x.ndim == 4 else x[..., None])).permute(0, 3, 1, 2)
    images = images.clone(
        memory_format=torch.contiguous_format
    )  # .contiguous() would keep channels-last strides at C = 1
    return images.float() if images.is_floating_point() else images


def _check_set(part: str, x: Tensor, y: Tensor, num_classes: int) -> None:
    """Check the images and labels of one part."""
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"{part} images must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{part} needs one label an image: {len(x)} images, labels of shape {tuple(y.shape)}")
    if x.is_floating_point():
        low, high = x.min().item(), x.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{part} pixels must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255 or use uint8")
    elif x.dtype != torch.uint8:
        raise ValueError(f"{part} images must be uint8 or floating in [0, 1], got {x.dtype}")
    if y.dtype != torch.int64:
        raise ValueError(f"{part} labels must be int64, got {y.dtype}")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"{part} labels must lie in [0, {num_classes}), got [{y.min()}, {y.max()}]")
