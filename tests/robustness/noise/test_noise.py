"""The noise of CIFAR-C against NumPy's and scikit-image's own, and the reader of the official files."""

import numpy as np
import pytest
import torch
from skimage.util import random_noise

from dampode.robustness import SEVERITIES, CifarCFiles, DrawnNoise, NormalizedPerFile, corrupt, evaluate, load_cifar_c
from dampode.robustness.random_blocks import BLOCK_SIZE, blocks

LEVELS = np.array([0, 51, 128, 204, 255]) / 255
DRAWS = 100_000
SIGMAS = 5.3
"""Two-sided, 1.2e-7 a comparison: with 20 noises, 5 levels, 2 moments and 7 quantiles, the whole has a false-alarm rate
below 1.1e-4."""
CONSTANTS = {  # of Hendrycks & Dietterich's make_cifar_c.py, written down a second time
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
}


def reference(x, name, severity, rng):
    c = CONSTANTS[name][severity - 1]
    if name == "gaussian_noise":
        noisy = random_noise(x, mode="gaussian", var=c**2, rng=rng)
    elif name == "speckle_noise":
        noisy = random_noise(x, mode="speckle", var=c**2, rng=rng)
    elif name == "impulse_noise":
        noisy = random_noise(x, mode="s&p", amount=c, rng=rng)
    else:
        noisy = np.clip(rng.poisson(x * c) / c, 0, 1)
    return np.uint8(noisy * 255)


def agree(a, b, spread, what):
    """Two estimates of one number, with the squared standard error of their difference."""
    assert abs(a - b) <= SIGMAS * spread**0.5 + 1e-12, (what, a, b)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", SEVERITIES)
def test_moments_and_quantiles_are_the_reference_s(name, severity):
    x = np.tile(LEVELS[:, None], (1, DRAWS))
    theirs = reference(x, name, severity, np.random.default_rng(severity)).astype(float)
    drawn = corrupt(torch.from_numpy(x), name, severity, torch.Generator().manual_seed(severity))
    ours = (255 * drawn).round().numpy()
    assert np.abs(255 * drawn.numpy() - ours).max() < 1e-9
    for a, b, level in zip(ours, theirs, LEVELS, strict=True):
        agree(a.mean(), b.mean(), (a.var() + b.var()) / DRAWS, (name, level, "mean"))
        fourth = [((v - v.mean()) ** 4).mean() - v.var() ** 2 for v in (a, b)]
        agree(a.var(), b.var(), sum(fourth) / DRAWS, (name, level, "variance"))
        for q in (0.005, 0.1, 0.25, 0.5, 0.75, 0.9, 0.995):
            at = np.quantile(b, q)
            below = [(v <= at).mean() for v in (a, b)]
            agree(*below, sum(p * (1 - p) for p in below) / DRAWS, (name, level, q))


def test_draws_of_a_source_are_its_seed_s_alone():
    x = torch.rand(BLOCK_SIZE + 7, 1, 2, 2)
    source = DrawnNoise(x, seed=3)
    assert [b.stop - b.start for b in blocks(len(x))] == [BLOCK_SIZE, 7]
    for index, images in ((0, BLOCK_SIZE), (1, 7)):
        block = source.block("shot_noise", 2, index)
        assert len(block) == images
        assert torch.equal(block, DrawnNoise(x, seed=3).block("shot_noise", 2, index))
        assert not torch.equal(block, DrawnNoise(x, seed=4).block("shot_noise", 2, index))
    assert not torch.equal(source.block("gaussian_noise", 1, 0)[:7], source.block("gaussian_noise", 1, 1))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder like the official one: every image of severity s has all pixels at 10 s, but for a marked one."""
    folder = tmp_path_factory.mktemp("cifar_c")
    for name in SEVERITIES:
        images = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(5):
            images[severity * 10_000 : severity * 10_000 + 2000, 0, 0, 0] = 10 * (severity + 1)
        images[30_001, 5, 7, 2] = 255
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 10, 5))
    return folder


def test_official_files_are_read_by_severity(official, tmp_path):
    images, labels = load_cifar_c(official, "shot_noise")
    assert isinstance(images, np.memmap)
    assert images.shape == (50_000, 32, 32, 3)
    assert labels.shape == (50_000,)
    images, labels = load_cifar_c(official, "shot_noise", 4)
    assert images.shape == (10_000, 32, 32, 3)
    assert images[0, 0, 0, 0] == 40
    assert images[1, 5, 7, 2] == 255
    assert labels.dtype == torch.int64
    assert torch.equal(labels, torch.arange(10_000) % 10)

    source = CifarCFiles(official, labels)
    block = source.block("shot_noise", 4, 0)
    assert block.shape == (1000, 3, 32, 32)
    assert block[1, 2, 5, 7] == 1.0
    assert block[0, 0, 0, 0] == pytest.approx(40 / 255)
    with pytest.raises(ValueError, match="corrupt the whole test set in its order"):
        CifarCFiles(official, labels[:100])

    other = tmp_path / "copy"
    other.mkdir()
    for file in official.iterdir():
        (other / file.name).hardlink_to(file)
    assert repr(CifarCFiles(other, labels)) == repr(source)
    (other / "shot_noise.npy").unlink()
    np.save(other / "shot_noise.npy", np.zeros((50_000, 32, 32, 3), np.uint8))
    assert repr(CifarCFiles(other, labels)) != repr(source)  # by which a partial report knows other images
    with pytest.raises(ValueError, match="as many noisy images as images, got 10000 and 4"):
        evaluate(torch.nn.Flatten().eval(), torch.rand(4, 3, 2, 2), labels[:4], eps=[0.1], noise=source)


def test_only_the_measured_files_and_images_are_needed(official, tmp_path):
    for name in ("labels.npy", "shot_noise.npy"):
        (tmp_path / name).hardlink_to(official / name)
    chosen = torch.tensor([9000, 1, 5])
    source = CifarCFiles(tmp_path, chosen % 10, images=chosen)
    assert source.n == 3
    whole = CifarCFiles(tmp_path, torch.arange(10_000) % 10).block("shot_noise", 4, 0)
    block = source.block("shot_noise", 4, 0)
    assert torch.equal(block[1:], whole[[1, 5]])
    assert block[0].max() == 0
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).eval()
    settings = {"attacks": {}, "noise": source, "severities": [4]}
    x = torch.rand(3, 3, 32, 32)
    assert evaluate(model, x, chosen % 10, noises=["shot_noise"], **settings).n == 3
    for noise in (source, NormalizedPerFile(source, (0.5,) * 3, (0.2,) * 3)):
        with pytest.raises(FileNotFoundError, match=r"speckle_noise\.npy must exist"):
            evaluate(model, x, chosen % 10, noises=["shot_noise", "speckle_noise"], **{**settings, "noise": noise})
    for images, error, words in (
        (chosen + 1, ValueError, "must be those of the images"),
        (chosen + 1000, ValueError, r"must be indices in \[0, 10000\)"),
        (chosen.float(), TypeError, "must be int64 indices"),
    ):
        with pytest.raises(error, match=words):
            CifarCFiles(tmp_path, chosen % 10, images=images)


def test_damaged_files_end_in_words(official, tmp_path):
    with pytest.raises(FileNotFoundError, match="must exist"):
        load_cifar_c(tmp_path, "shot_noise")
    with pytest.raises(ValueError, match=r"a corruption must be one of gaussian_noise, .*, saturate, got 'rain'"):
        load_cifar_c(official, "rain")
    with pytest.raises(
        ValueError, match=r"noise must be one of gaussian_noise.*; other corruptions are read from files"
    ):
        corrupt(torch.rand(1, 1, 2, 2), "fog", 1)
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, got 6"):
        load_cifar_c(official, "shot_noise", 6)
    file = tmp_path / "shot_noise.npy"
    np.save(file, np.zeros((10, 32, 32, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"must hold uint8 images of shape \(50000, 32, 32, 3\), got \(10, 32, 32, 3\)"
    ):
        load_cifar_c(tmp_path, "shot_noise")
    with open(official / "shot_noise.npy", "rb") as whole:
        file.write_bytes(whole.read(1000))
    with pytest.raises(ValueError, match="truncated or of another kind"):
        load_cifar_c(tmp_path, "shot_noise")
    np.lib.format.open_memmap(file, "w+", np.int16, (50_000, 32, 32, 3))
    with pytest.raises(ValueError, match=r"must hold uint8 in 0\.\.255, got int16"):
        load_cifar_c(tmp_path, "shot_noise")


def test_the_authors_protocol_normalizes_by_the_file():
    x = torch.rand(40, 3, 4, 4, dtype=torch.float64)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    plain = DrawnNoise(x, 1)
    source = NormalizedPerFile(plain, mean, std)
    everything = torch.cat([plain.block("gaussian_noise", s, 0) for s in range(1, 6)]).numpy()
    m, s = everything.mean((0, 2, 3)), everything.std((0, 2, 3))
    seen = (source.block("gaussian_noise", 5, 0).numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    theirs = (everything[-40:] - m.reshape(3, 1, 1)) / s.reshape(3, 1, 1)  # what their network is given
    np.testing.assert_allclose(seen, theirs, atol=1e-12)
    with pytest.raises(ValueError, match="one number for each of 3 channels"):
        NormalizedPerFile(plain, (0.5,), (0.2,)).block("gaussian_noise", 1, 0)
    x[:, 1] = 0  # which shot noise leaves at 0
    with pytest.raises(ValueError, match=r"each channel must vary .*, got shot_noise of means"):
        NormalizedPerFile(DrawnNoise(x, 1), mean, std).block("shot_noise", 1, 0)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_images_cannot_be_normalized_by_the_file(level):
    class Constant(DrawnNoise):
        def block(self, name, severity, index):
            return self.x

    source = Constant(torch.full((50, 1, 8, 8), level))
    with pytest.raises(ValueError, match="each channel must vary"):
        NormalizedPerFile(source, (0.5,), (0.2,)).block("shot_noise", 1, 0)
