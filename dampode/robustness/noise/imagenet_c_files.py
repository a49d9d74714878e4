"""A reader for ImageNet-C's folders: corruption/severity/class/image."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dampode._checks import require_labels
from dampode._files import user_path
from dampode._identity import fingerprint
from dampode.robustness.noise.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    require_corruption,
    require_severity,
)
from dampode.robustness.noise.sources import NoiseSource, indices_of_images
from dampode.robustness.random_blocks import blocks

__all__ = ["ImageNetCFiles"]


class ImageNetCFiles(NoiseSource):
    """The folders of ImageNet-C, or of any data set in its layout: corruption/severity/class/image.

    The classes and their images are in the order of torchvision's ``ImageFolder``: sorted by name. Every corruption and
    severity must hold the same files. By default `evaluate` measures the corruptions whose folder exists.

    Args:
        folder: the folder that holds a folder per corruption.
        y: labels of the measured images.
        device: device of the images that `block` and `select` return.
        images: indices of the measured images in the order of ``ImageFolder``, (N,) int64; None for all images.

    Raises:
        ValueError: the labels differ from the classes of the folders, or an index is outside the test set. `block` and
            `select` raise it where the images of a call differ in size.
        TypeError: the indices are not int64.
        FileNotFoundError: the folder holds no corruption, or a file is missing.
        ImportError: torchvision is not installed.

    Source: Hendrycks & Dietterich 2019, ImageNet-C.
    """

    def __init__(
        self, folder: str | Path, y: Tensor, device: torch.device | str = "cpu", images: Tensor | None = None
    ) -> None:
        self.title, self.folder, self.device = "ImageNet-C, files", user_path(folder), torch.device(device)
        self.names = tuple(n for n in CORRUPTIONS + EXTRA_CORRUPTIONS if (self.folder / n).is_dir())
        if not self.names:
            raise FileNotFoundError(
                f"{self.folder} must hold a folder per corruption, such as {CORRUPTIONS[0]}/1/<class>/<image>; name "
                "the folder into which the archives of ImageNet-C were unpacked"
            )
        require_labels(y, len(y))
        files, labels = _listed(self.folder / self.names[0])
        chosen = torch.arange(len(files), device="cpu") if images is None else indices_of_images(images, len(files))
        if not torch.equal(labels[chosen], y.cpu()):
            raise ValueError(
                f"the labels must be the classes of the folders in {folder}, in the order of ImageFolder "
                f"({len(chosen)} images are asked for), got {len(y)} labels that differ; measure on all images, or "
                "pass the indices of the images as images="
            )
        self.files, self.n = [files[index] for index in chosen.tolist()], len(chosen)

    def __repr__(self) -> str:
        return f"ImageNetCFiles({self._digest})"

    @cached_property
    def _digest(self) -> str:
        """The identity of the measured files of all corruptions: their names and sizes."""
        sizes = [
            f"{name}/{severity.name} {[(severity / file).stat().st_size for file in self.files]}"
            for name in self.names
            for severity in sorted((self.folder / name).iterdir())
        ]
        return fingerprint(*self.files, *sizes)[:12]

    def require(self, name: str, severity: int) -> None:
        """Raise unless every measured image of a corruption and severity exists."""
        require_corruption(name)
        require_severity(severity)
        missing = [file for file in self.files if not (self.folder / name / str(severity) / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.folder / name / str(severity) / missing[0]} must exist: every corruption and severity of "
                f"ImageNet-C holds the same images, and {len(missing)} of {self.n} are missing; unpack it again, or "
                "leave it out with noises= and severities="
            )

    def block(self, name: str, severity: int, index: int) -> Tensor:
        """One block of images, read from the files."""
        block = blocks(self.n)[index]
        return self.select(name, severity, torch.arange(block.start, block.stop, device="cpu"))

    def select(self, name: str, severity: int, indices: Tensor) -> Tensor:
        """The images of these indices, read from the files: RGB, float32 in [0, 1]."""
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms.functional import to_tensor

        found = []
        for index in indices.tolist():
            path = self.folder / name / str(severity) / self.files[index]
            try:
                found.append(to_tensor(default_loader(str(path))))
            except OSError as error:  # also of an image that PIL does not recognize
                raise ValueError(f"{path} must be a whole image; it is damaged ({error})") from None
            if found[-1].shape != found[0].shape:
                shapes = f"{tuple(found[-1].shape)} and {tuple(found[0].shape)}"
                raise ValueError(f"the images of ImageNet-C must have one size, got {shapes} at {path}; resize them")
        return torch.stack(found).to(self.device)


def _listed(corruption: Path) -> tuple[list[str], Tensor]:
    """The files class/image of a corruption's first severity, in the order of ``ImageFolder``, and their classes."""
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        raise ImportError("images in folders are read by torchvision: pip install torchvision") from None
    severities = sorted(path for path in corruption.iterdir() if path.name in "12345" and path.is_dir())
    if not severities:
        raise FileNotFoundError(f"{corruption} must hold a folder per severity, 1 to 5, got none")
    try:
        samples = ImageFolder(severities[0]).samples
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{severities[0]} must hold a folder of images per class ({error})") from None
    labels = torch.tensor([label for _, label in samples], device="cpu")
    return [str(Path(path).relative_to(severities[0])) for path, _ in samples], labels
