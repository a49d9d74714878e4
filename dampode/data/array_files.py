"""Data sets in files of arrays: .npz with our keys or MedMNIST's, and SVHN's .mat."""

from pathlib import Path

import numpy as np

from dampode._files import is_there
from dampode.data.arrays import Array, Layout, class_labels, data_from_arrays
from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ARRAYS, ImageData

__all__ = ["load_mat", "load_npz"]

MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")
"""MedMNIST's keys, in the order of `ARRAYS`; its validation set is left out."""
NONE = Augmentation(pad=0, flip=False)


def load_npz(path: Path, layout: Layout | None) -> ImageData:
    """The images and labels of an .npz file, without augmentation."""
    _require_file(path)
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            keys = next((keys for keys in (ARRAYS, MEDMNIST) if set(keys) <= set(archive.files)), None)
            arrays = {key: archive[key] for key in archive.files if keys and key in keys}
            held = archive.files
    except Exception as error:  # numpy and zipfile raise a dozen kinds of errors for a damaged archive
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path} must hold plain arrays; it holds an object array, which may run code: give images of one size "
                "as np.stack(images), and names as labels.astype(str)"
            ) from None
        kind = type(error).__name__
        raise ValueError(
            f"{path} must be a whole .npz file; it is damaged, truncated or of another kind ({kind})"
        ) from None
    if keys is None:
        missing = [key for key in ARRAYS if key not in held]
        raise ValueError(
            f"{path} must hold {', '.join(ARRAYS)}, or MedMNIST's {', '.join(MEDMNIST)}; it lacks {', '.join(missing)}"
        )
    x_train, y_train, x_test, y_test = (arrays[key] for key in keys)
    y_train, y_test, classes = class_labels(y_train, y_test)
    return data_from_arrays(path.stem, x_train, y_train, x_test, y_test, classes, layout, NONE)


def load_mat(path: Path) -> ImageData:
    """SVHN's train_32x32.mat and, beside it, test_32x32.mat; its label 10 is the digit 0."""
    if not path.name.startswith("train_"):
        raise ValueError(f"a .mat file must be SVHN's train_32x32.mat, beside test_32x32.mat, got {path}; save an .npz")
    (x_train, y_train), (x_test, y_test) = (
        _svhn(path.with_name(part + path.name.removeprefix("train"))) for part in ("train", "test")
    )
    return data_from_arrays("svhn", x_train, y_train, x_test, y_test, 10, "NHWC", NONE)


def _svhn(path: Path) -> tuple[Array, Array]:
    """Images (N, 32, 32, 3) and labels (N,) of one of SVHN's files."""
    from scipy.io import loadmat

    _require_file(path)
    try:
        content = loadmat(path)
        images, labels = content["X"].transpose(3, 0, 1, 2), content["y"][:, 0]
    except Exception as error:  # scipy raises many kinds of errors for a damaged file
        raise ValueError(
            f"{path} must be a file of SVHN with X (32, 32, 3, N) and y (N, 1); it is damaged or of another kind "
            f"({type(error).__name__}: {error})"
        ) from None
    return images, labels % 10


def _require_file(path: Path) -> None:
    """Raise unless the path is a file."""
    if not path.is_file():
        if is_there(path):
            raise ValueError(f"data file {path} must be a file; got a folder, or a link that leads to no file")
        raise FileNotFoundError(f"data file {path} must exist; got no such file")
