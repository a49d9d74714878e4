"""Load image data: CIFAR-10 and CIFAR-100, scikit-learn's digits, and .npz files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ARRAYS, ImageData

__all__ = ["Layout", "load"]

Layout = Literal["NHWC", "NCHW"]
"""Where the channels of an array of images lie: in the last axis, or in the second."""


def load(
    name: str | Path, *, root: str | Path = "data", download: bool = False, layout: Layout | None = None
) -> ImageData:
    """Load a data set.

    CIFAR and the digits come with their usual augmentation. An .npz file gets none, since only its owner knows whether
    its images may be shifted and flipped; choose it with ``Recipe(augmentation=...)``.

    Args:
        name: "digits" (scikit-learn's 1,797 real 8x8 images, no download), "cifar10", "cifar100" (torchvision), or
            the path of an .npz with x_train, y_train, x_test, y_test. Its images are (N, H, W), (N, H, W, C) or
            (N, C, H, W), uint8 in 0..255 or floating in [0, 1].
        root: folder of the CIFAR files.
        download: whether torchvision may download CIFAR.
        layout: axes of the images in an .npz. None recognizes arrays with 1 or 3 channels whose other sides are longer
            than 4, and refuses the others.

    Raises:
        ValueError: there is no such data set, a file is damaged or has other keys, a value is out of range, the layout
            is not clear, or it is given for data that have one.
        FileNotFoundError: the file or the CIFAR folder does not exist.
        ImportError: the digits need scikit-learn, which is not installed.
    """
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f'layout must be "NHWC", "NCHW" or None, got {layout!r}')
    if str(name).endswith(".npz"):
        return _npz(Path(name), layout)
    if layout is not None:
        raise ValueError(f"layout is about the arrays of an .npz file, got layout={layout!r} for {name}; leave it out")
    if str(name) == "digits":
        return _digits()
    if str(name) in ("cifar10", "cifar100"):
        return _cifar(str(name), Path(root), download)
    raise ValueError(f"data must be digits, cifar10, cifar100 or the path of an .npz file, got {str(name)!r}")


def _digits() -> ImageData:
    """The digits: 1,437 training and 360 test images, in a fixed split that is stratified by class."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise ImportError("the digits come with scikit-learn: install dampode[train]") from None

    images, labels = load_digits(return_X_y=True)
    x = np.round(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(x, labels, test_size=360, random_state=0, stratify=labels)
    return _from_arrays("digits", x_train, y_train, x_test, y_test, 10, "NHWC", Augmentation(pad=1, flip=False))


def _cifar(name: str, root: Path, download: bool) -> ImageData:
    """CIFAR-10 or CIFAR-100 through torchvision, which checks the files' md5."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        if download:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{name}.lock"):  # of the processes that start together, one downloads
                dataset(str(root), download=True)
        train, test = (dataset(str(root), train=part) for part in (True, False))
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} must be complete under {root} ({error}); pass download=True, or name its folder as root"
        ) from None
    y_train, y_test = np.array(train.targets), np.array(test.targets)
    return _from_arrays(name, train.data, y_train, test.data, y_test, len(train.classes), "NHWC", Augmentation())


def _npz(path: Path, layout: Layout | None) -> ImageData:
    """The images and labels of an .npz file, without augmentation."""
    if not path.is_file():
        raise FileNotFoundError(f"data file {path} must exist; got no such file")
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            arrays = {key: archive[key] for key in archive.files if key in ARRAYS}
    except Exception as error:  # numpy and zipfile raise a dozen kinds of errors for a damaged archive
        kind = type(error).__name__
        raise ValueError(
            f"{path} must be a whole .npz file; it is damaged, truncated or of another kind ({kind})"
        ) from None
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(ARRAYS)}; it lacks {', '.join(missing)}")
    y_train, y_test = _labels("y_train", arrays["y_train"]), _labels("y_test", arrays["y_test"])
    classes = int(y_train.max(initial=1)) + 1
    if y_train.size and y_train.min() >= 0 and np.unique(y_train).size != classes:
        raise ValueError(f"y_train of {path} must hold every label from 0 to its largest, {classes - 1}; renumber them")
    none = Augmentation(pad=0, flip=False)
    return _from_arrays(path.stem, arrays["x_train"], y_train, arrays["x_test"], y_test, classes, layout, none)


def _from_arrays(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    num_classes: int,
    layout: Layout | None,
    augmentation: Augmentation,
) -> ImageData:
    """NumPy arrays as `ImageData`."""
    train, test = _channels_first("x_train", x_train, layout), _channels_first("x_test", x_test, layout)
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test))
    return ImageData(name, train, y_train, test, y_test, num_classes, augmentation)


def _labels(part: str, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integer labels, or a worded error."""
    if y.dtype.kind not in "ui":
        raise ValueError(f"{part} must hold int labels, got {y.dtype} of shape {y.shape}")
    return y


def _channels_first(part: str, x: np.ndarray[Any, Any], layout: Layout | None) -> Tensor:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as a contiguous tensor (N, C, H, W), uint8 or float32."""
    if x.ndim not in (3, 4):
        raise ValueError(f"{part} must hold images (N, H, W, C), (N, C, H, W) or (N, H, W), got shape {x.shape}")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"{part} images must be uint8 or floating in [0, 1], got {x.dtype}")
    if x.ndim == 3:
        x = x[:, None]  # gray
    elif (layout or _recognized_layout(part, x.shape)) == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(x if x.dtype == np.uint8 else x.astype(np.float32)))
    # .contiguous() would keep channels-last strides where C = 1
    return images.clone(memory_format=torch.contiguous_format)


def _recognized_layout(part: str, shape: tuple[int, ...]) -> Layout:
    """The layout of an array of 1 or 3 channels whose other sides are longer than 4, or a worded error."""
    _, first, second, last = shape
    if min(first, second) > 4 and last in (1, 3):
        return "NHWC"
    if min(second, last) > 4 and first in (1, 3):
        return "NCHW"
    raise ValueError(
        f"{part} must show which axis holds the channels, got shape {shape}, which may be (N, H, W, C) or "
        f'(N, C, H, W); pass layout="NHWC" or layout="NCHW"'
    )
