"""Noise on pixels in [0, 1]: corruptions as in CIFAR-C, and the sources that noisy images come from."""

from dampode.robustness.noise.cifar_c_files import load_cifar_c
from dampode.robustness.noise.corruptions import SEVERITIES, corrupt
from dampode.robustness.noise.sources import CifarCFiles, DrawnNoise, NoiseSource, NormalizedPerFile

__all__ = [
    "SEVERITIES",
    "CifarCFiles",
    "DrawnNoise",
    "NoiseSource",
    "NormalizedPerFile",
    "corrupt",
    "load_cifar_c",
]
