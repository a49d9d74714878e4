"""Image classification data held whole: CIFAR-10/100, digits, .npz files; augmentation in batches."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from dampode._checks import require_instance, require_positive_int

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Augmentation:
    """Random translation (padding, then a random crop of the old size) and horizontal flip, each image by its own draw.

    Equal in distribution to torchvision's RandomCrop(size, padding=pad, padding_mode=...) and RandomHorizontalFlip.

    Args:
        pad: pixels of padding on every side; 0 for no translation.
        flip: whether an image is mirrored with probability 1/2.
        mode: what the padding holds: "zero", or "reflect" for the image mirrored at its border.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Yang et al. 2020, Sec. 4.1 (pad 4 with zeros, crop, flip); the authors' code reflects, with pad 2.
    """

    pad: int = 4
    flip: bool = True
    mode: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.pad, bool) or not isinstance(self.pad, int) or self.pad < 0:
            raise ValueError(f"pad must be an int of at least 0, got {self.pad!r}")
        require_instance(self.flip, bool, "flip")
        if self.mode not in ("zero", "reflect"):
            raise ValueError(f"mode must be zero or reflect, got {self.mode!r}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augment images (N, C, H, W), each by its own draw; dtype, device and shape are kept."""
        return self.apply(x, self.draw(len(x), generator))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws for n images, (3, n) int64: first row and first column of the crop, and whether mirrored."""
        device = generator.device
        shift = torch.randint(0, 2 * self.pad + 1, (2, n, 1), generator=generator, device=device)
        mirrored = torch.rand(n, 1, generator=generator, device=device) < (0.5 if self.flip else 0.0)
        return torch.stack([shift[0], shift[1], mirrored.long()]).squeeze(-1)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images (N, C, H, W) by the draws (3, N) of `draw`; dtype, device and shape are kept.

        Raises:
            ValueError: the image is too small to be reflected by pad pixels.
        """
        n, channels, height, width = x.shape
        device = x.device
        top, left, mirrored = drawn[..., None]  # (N, 1) each
        across = torch.arange(width, device=device)
        rows = top + torch.arange(height, device=device)  # (N, H), of the padded image
        cols = left + torch.where(mirrored.bool(), width - 1 - across, across)  # (N, W)
        if self.mode == "zero":
            x = F.pad(x, (self.pad,) * 4)
        else:
            if self.pad >= min(height, width):
                raise ValueError(
                    f"pad must be below the image's size to reflect it, got {self.pad} for {height}x{width}"
                )
            rows, cols = _reflected(rows - self.pad, height), _reflected(cols - self.pad, width)
        image = torch.arange(n, device=device).view(n, 1, 1, 1)
        channel = torch.arange(channels, device=device).view(1, channels, 1, 1)
        return x[image, channel, rows[:, None, :, None], cols[:, None, None, :]]


def _reflected(place: Tensor, size: int) -> Tensor:
    """Places in (−size, 2 size − 1) mirrored at the first and last pixel into [0, size)."""
    last = size - 1
    return last - (last - place.abs()).abs()


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
        TypeError: images or labels are no tensors or of another dtype, num_classes no int, or augmentation is
            something else.
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
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        require_instance(self.augmentation, Augmentation, "augmentation")
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
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ImportError("the digits come with scikit-learn: install dampode[train]") from None

    images, labels = load_digits(return_X_y=True)
    x = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(x, labels, test_size=360, random_state=0, stratify=labels)
    return _from_arrays("digits", x_train, y_train, x_test, y_test, 10, Augmentation(pad=1, flip=False))


def _cifar(name: str, root: Path, download: bool) -> ImageData:
    """CIFAR-10 or CIFAR-100 through torchvision, which checks the files' md5."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # processes that start together download once
                dataset(str(root), download=True)
        train, test = (dataset(str(root), train=part) for part in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} must lie whole under {root} ({error}); pass download=True, or name its folder as root"
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
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            arrays = {key: archive[key] for key in archive.files if key in NPZ_KEYS}
    except Exception as error:  # a damaged archive makes numpy and zipfile raise a dozen kinds
        kind = type(error).__name__
        raise ValueError(
            f"{path} must be a whole .npz file; it is damaged, truncated or of another kind ({kind})"
        ) from None
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(NPZ_KEYS)}; it lacks {', '.join(missing)}")
    y_train = _labels("y_train", arrays["y_train"])
    classes = int(y_train.max(initial=1)) + 1
    if y_train.size and y_train.min() >= 0 and np.unique(y_train).size != classes:
        raise ValueError(f"y_train of {path} must hold every label from 0 to its largest, {classes - 1}; renumber them")
    x_train, x_test, y_test = (arrays[key] for key in ("x_train", "x_test", "y_test"))
    return _from_arrays(path.stem, x_train, y_train, x_test, _labels("y_test", y_test), classes, Augmentation())


def _from_arrays(
    name: str, x_train: Any, y_train: Any, x_test: Any, y_test: Any, num_classes: int, augmentation: Augmentation
) -> ImageData:
    """Arrays (N, H, W, C) or (N, H, W) as `ImageData`."""
    train, test = _channels_first("x_train", x_train), _channels_first("x_test", x_test)
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test))
    return ImageData(name, train, y_train, test, y_test, num_classes, augmentation)


def _labels(part: str, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integer labels, or a worded error."""
    if y.dtype.kind not in "ui":
        raise ValueError(f"{part} must hold int labels, got {y.dtype} of shape {y.shape}")
    return y


def _channels_first(part: str, x: np.ndarray[Any, Any]) -> Tensor:
    """(N, H, W, C) or (N, H, W) to a contiguous (N, C, H, W), uint8 or float32."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{part} must hold images (N, H, W, C) or (N, H, W), got shape {x.shape}")
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise ValueError(f"{part} must hold images (N, H, W, C), got {x.shape}, which looks like (N, C, H, W)")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"{part} images must be uint8 or floating in [0, 1], got {x.dtype}")
    native = x if x.dtype == np.uint8 else x.astype(np.float32)
    images = torch.from_numpy(np.ascontiguousarray(native if x.ndim == 4 else native[..., None])).permute(0, 3, 1, 2)
    # .contiguous() would keep channels-last strides where C = 1
    return images.clone(memory_format=torch.contiguous_format)


def _check_set(part: str, x: Tensor, y: Tensor, num_classes: int) -> None:
    """Check the images and labels of one part."""
    require_instance(x, Tensor, f"{part} images", "use torch.from_numpy")
    require_instance(y, Tensor, f"{part} labels", "use torch.from_numpy")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"{part} images must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{part} needs one label an image: {len(x)} images, labels of shape {tuple(y.shape)}")
    if x.is_floating_point():
        low, high = x.min().item(), x.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{part} pixels must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255 or use uint8")
    elif x.dtype != torch.uint8:
        raise TypeError(f"{part} images must be uint8 or floating in [0, 1], got {x.dtype}")
    if y.dtype != torch.int64:
        raise TypeError(f"{part} labels must be int64, got {y.dtype}; convert them with .long()")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(f"{part} labels must lie in [0, {num_classes}), got [{y.min()}, {y.max()}]")
