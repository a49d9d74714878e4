"""Attacks on classifiers of pixels in [0, 1]: functions, and their settings for `evaluate`."""
