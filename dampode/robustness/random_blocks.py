"""Blocks of images, each with its own random numbers: results do not depend on the batch size of a forward pass."""

import hashlib

import torch

__all__ = ["BLOCK_SIZE", "block_generator", "blocks"]

BLOCK_SIZE = 1000
"""Images per block. All images of a block share one stream of random numbers."""


def blocks(n: int) -> list[slice]:
    """The blocks of n images, in order."""
    return [slice(start, min(start + BLOCK_SIZE, n)) for start in range(0, n, BLOCK_SIZE)]


def block_generator(device: torch.device, *key: str | int | float) -> torch.Generator:
    """A generator seeded by a key, such as a seed, the name of a noise, a severity and the index of a block."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
