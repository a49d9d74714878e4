"""Image classification data: loading, holding them in memory, and augmentation by batches."""

from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData, pixels
from dampode.data.loading import load

__all__ = ["Augmentation", "ImageData", "load", "pixels"]
