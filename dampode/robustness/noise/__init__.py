"""Noise on pixels in [0, 1]: corruptions as in CIFAR-C, and where noisy images come from."""
