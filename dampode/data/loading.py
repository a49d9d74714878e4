"""Load image data: CIFAR-10 and CIFAR-100, scikit-learn's digits, and .npz files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ARRAYS, ImageData

__all__ = ["load"]


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
            arrays = {key: archive[key] for key in archive.files if key in ARRAYS}
    except Exception as error:  # a damaged archive makes numpy and zipfile raise a dozen kinds
        kind = type(error).__name__
        raise ValueError(
            f"{path} must be a whole .npz file; it is damaged, truncated or of another kind ({kind})"
        ) from None
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold {', '.join(ARRAYS)}; it lacks {', '.join(missing)}")
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
