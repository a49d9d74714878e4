"""The draws of each image by itself: SplitMix64's numbers, their distributions, and independence of the batch."""

import numpy as np
import pytest
import scipy.stats
import torch

from dampode.robustness.draws import ImageDraws, normal, uniform


def splitmix64(state, n):
    """The first n outputs of SplitMix64, as its authors' C code computes them."""
    mask, found = 2**64 - 1, []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def test_an_image_draws_the_numbers_of_splitmix64():
    keys = [0, 1234567, 2**63 - 1]
    drawn = ImageDraws(torch.tensor(keys)).uniform(2, 4).flatten(1)
    assert drawn.tolist() == [[(z >> 40) / 2**24 for z in splitmix64(key, 8)] for key in keys]
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # of the reference implementation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draw", [uniform, normal])
def test_draws_do_not_depend_on_the_other_images(draw, dtype):
    images, like = torch.arange(1000), torch.zeros(1, dtype=dtype)
    whole, part = ImageDraws.by_key(images, 3, "PGD"), ImageDraws.by_key(images[17::7], 3, "PGD")
    for number in range(3):
        expected = draw((1000, 2, 5), like, whole, number)
        assert torch.equal(expected[17::7], draw((len(part.keys), 2, 5), like, part, number))
        assert torch.equal(expected[[5, 2]], draw((2, 2, 5), like, whole.at(torch.tensor([5, 2])), number))
    assert ImageDraws.of(1000, whole, images.device) is whole
    with pytest.raises(ValueError, match="each image needs a stream of its own, got 1000 for 3 images"):
        ImageDraws.of(3, whole, images.device)


def test_streams_are_apart():
    images = torch.arange(200)
    keys = ((0, "PGD"), (1, "PGD"), (0, "Square"))
    streams = [ImageDraws.by_key(images, *key).stream(number) for key in keys for number in (0, 1)]
    drawn = torch.stack([stream.uniform(50, dtype=torch.float64).flatten() for stream in streams])
    correlation = np.corrcoef(drawn.numpy())
    assert np.abs(correlation - np.eye(6)).max() < 5 / 10_000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions(dtype):
    draws, like = ImageDraws.by_key(torch.arange(500), "distribution"), torch.zeros(1, dtype=dtype)
    u, n = uniform((500, 400), like, draws), normal((500, 400), like, draws)
    assert u.dtype == n.dtype == dtype
    assert 0 <= u.min() < u.max() < 1
    for values, law in ((u, "uniform"), (n, "norm")):
        for sample in (values.flatten(), values[:, 0], values[0], values[:, -1]):
            assert scipy.stats.kstest(sample.double().numpy(), law).pvalue > 1e-4
    correlation = np.corrcoef(n[:100].double().numpy())
    assert np.abs(correlation - np.eye(100)).max() < 5.5 / 400**0.5
    counts = draws.integers(9, 400).flatten().bincount()
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4
    assert len(counts) == 9


def test_torch_s_generator_gives_torch_s_draws():
    for draw, theirs in ((uniform, torch.rand), (normal, torch.randn)):
        ours, own = (torch.Generator().manual_seed(2) for _ in range(2))
        for number in range(2):
            assert torch.equal(draw((3, 4), torch.zeros(1), ours, number), theirs((3, 4), generator=own))
