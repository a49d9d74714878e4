"""Image classification data: loading, holding them in memory or reading them by batches, and augmentation."""

from dampode.data.augmentation import Augmentation
from dampode.data.image_data import ImageData, pixels
from dampode.data.image_stream import ImageStream, TrainingData
from dampode.data.loading import load

__all__ = ["Augmentation", "ImageData", "ImageStream", "TrainingData", "load", "pixels"]
