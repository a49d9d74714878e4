"""A folder of images, one folder per class, as torchvision's ImageFolder reads it: train/CLASS/*, test/CLASS/*."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import functional as transforms

from dampode._checks import require_positive_int
from dampode.data.arrays import Array, data_from_arrays
from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData

__all__ = ["load_image_folder"]


def load_image_folder(folder: Path, size: int | None) -> ImageData:
    """All images under train/ and test/, without augmentation; the classes are the folders of train/, sorted.

    Images are RGB, or gray if all are gray.

    Args:
        folder: holds train/CLASS/ and test/CLASS/.
        size: side of the images: the shorter side is resized to it, and the middle is cropped. None keeps the images,
            which must then have one size.

    Raises:
        ValueError: a folder or its images are missing, a class of test/ is unknown, an image is damaged, transparent or
            of more than 8 bits, or sizes differ and none is given.
    """
    if size is not None:
        require_positive_int(size, "size")
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} must hold train/CLASS/ and test/CLASS/, it lacks {part}/; split the images so")
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    unknown = sorted({path.name for path in (folder / "test").iterdir() if path.is_dir()} - set(classes))
    if unknown:
        raise ValueError(f"every class of {folder / 'test'} must have a folder in train/, got {unknown[:5]}")
    files = {part: _files(folder / part, classes) for part in ("train", "test")}
    pictures = {part: [_read(path, size) for path, _ in found] for part, found in files.items()}
    gray = all(picture.mode == "L" for part in pictures.values() for picture in part)
    arrays = {part: _stack(folder, found, gray) for part, found in pictures.items()}
    labels = {part: np.array([label for _, label in found]) for part, found in files.items()}
    return data_from_arrays(
        folder.name,
        arrays["train"],
        labels["train"],
        arrays["test"],
        labels["test"],
        len(classes),
        "NHWC",
        Augmentation(pad=0, flip=False),
    )


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The image files of a part with their labels, sorted by class and name."""
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMG_EXTENSIONS
    ]
    if not found:
        raise ValueError(f"{folder} must hold images, CLASS/*.png or *.jpg, got none")
    return found


def _read(path: Path, size: int | None) -> Image.Image:
    """An image as 8-bit gray or RGB, resized and cropped to size x size."""
    try:
        with Image.open(path) as file:
            picture: Image.Image = file.copy()
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ValueError(f"{path} must be a whole image; it is damaged or of another kind ({error})") from None
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
        raise ValueError(f"{path} must have 8 bits per channel, got mode {picture.mode}; convert it, or save an .npz")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA" if picture.mode != "LA" else "LA")
        if np.asarray(picture)[..., -1].min() < 255:
            raise ValueError(f"{path} must be opaque, got transparent pixels; paste it on a background")
        warnings.warn("opaque alpha channels are dropped", stacklevel=2)
    picture = picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")
    if size is None:
        return picture
    cropped: Image.Image = transforms.center_crop(transforms.resize(picture, size), [size, size])
    return cropped


def _stack(folder: Path, pictures: list[Image.Image], gray: bool) -> Array:
    """Images (N, H, W, C) of one size."""
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(
            f"the images of {folder} must have one size, got {len(sizes)} from {sizes[0]} to {sizes[-1]} (width, "
            "height); pass size=32, which resizes the shorter side and crops the middle"
        )
    stacked = np.stack([np.asarray(picture.convert("L" if gray else "RGB")) for picture in pictures])
    return stacked[..., None] if gray else stacked
