"""Corrupted images in pixels of [0, 1], as in CIFAR-C and ImageNet-C, and the sources that they come from."""

from dampode.robustness.noise.cifar_c_files import load_cifar_c
from dampode.robustness.noise.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, corrupt
from dampode.robustness.noise.imagenet_c_files import ImageNetCFiles
from dampode.robustness.noise.sources import CifarCFiles, DrawnNoise, NoiseSource, NormalizedPerFile

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "SEVERITIES",
    "CifarCFiles",
    "DrawnNoise",
    "ImageNetCFiles",
    "NoiseSource",
    "NormalizedPerFile",
    "corrupt",
    "load_cifar_c",
]
