"""Load image data: CIFAR-10 and CIFAR-100, scikit-learn's digits, files of arrays, and folders of images."""

from pathlib import Path

import numpy as np
from filelock import FileLock

from dampode._files import user_path
from dampode.data.array_files import load_mat, load_npz
from dampode.data.arrays import Layout, data_from_arrays
from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData

__all__ = ["Layout", "load"]


def load(
    name: str | Path,
    *,
    root: str | Path = "data",
    download: bool = False,
    layout: Layout | None = None,
    size: int | None = None,
) -> ImageData:
    """Load a data set.

    CIFAR and the digits come with their usual augmentation. Other data get none, since only their owner knows whether
    the images may be shifted and flipped; choose it with ``Recipe(augmentation=...)``.

    Args:
        name: "digits" (scikit-learn's 1,797 real 8x8 images, no download), "cifar10", "cifar100" (torchvision), or
            the path of one of these: an .npz with x_train, y_train, x_test, y_test, or with MedMNIST's keys; SVHN's
            train_32x32.mat, beside test_32x32.mat; a folder of images, train/CLASS/* and test/CLASS/*. The images of
            an .npz are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 in 0..255, uint16 in 0..65535 or floating in
            [0, 1]. Its labels are integers or strings, (N,) or (N, 1), or one-hot rows.
        root: folder of the CIFAR files.
        download: whether torchvision may download CIFAR.
        layout: axes of the images in an .npz. None recognizes arrays with 1 or 3 channels whose other sides are longer
            than 4, and refuses the others.
        size: side of the images of a folder: their shorter side is resized to it, and the middle is cropped. None
            keeps the images, which must then have one size.

    Raises:
        ValueError: there is no such data set, a file is damaged or has other keys, a value is out of range, the layout
            is not clear, or it is given for data that have one.
        FileNotFoundError: the file or the CIFAR folder does not exist.
        ImportError: the digits need scikit-learn, which is not installed.
    """
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f'layout must be "NHWC", "NCHW" or None, got {layout!r}')
    path = user_path(name)
    if size is not None and not path.is_dir():
        raise ValueError(f"size is about a folder of images, got size={size} for {name}; leave it out")
    if path.suffix == ".npz":
        return load_npz(path, layout)
    if layout is not None:
        raise ValueError(f"layout is about the arrays of an .npz file, got layout={layout!r} for {name}; leave it out")
    if str(name) == "digits":
        return _digits()
    if str(name) in ("cifar10", "cifar100"):
        return _cifar(str(name), user_path(root), download)
    if path.suffix == ".mat":
        return load_mat(path)
    if path.is_dir():
        from dampode.data.image_folder import load_image_folder  # torchvision takes a second to import

        return load_image_folder(path, size)
    raise ValueError(
        "data must be digits, cifar10, cifar100 or the path of an .npz file, of SVHN's .mat or of a folder of images, "
        f"got {str(name)!r}"
    )


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
    return data_from_arrays("digits", x_train, y_train, x_test, y_test, 10, "NHWC", Augmentation(pad=1, flip=False))


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
    return data_from_arrays(name, train.data, y_train, test.data, y_test, len(train.classes), "NHWC", Augmentation())
