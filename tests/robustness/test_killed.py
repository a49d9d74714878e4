"""Per-image results are facts of the image: neither kills at random moments nor the batch size change them."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from dampode.robustness import FGSM, PGD, AutoAttack, Square, UniformNoise, evaluate
from tests.robustness.test_processes import classifier, images

KILLS = 10
ATTACKS = {"noise": UniformNoise(), "FGSM": FGSM(), "PGD": PGD(steps=3), "Square": Square(10), "PGD 2": PGD(norm="l2")}
SETTINGS = {"eps": [8 / 255, 16 / 255], "attacks": ATTACKS, "noises": ["shot_noise"], "severities": [5]}


class Waiting(nn.Module):
    """The classifier, which waits before each pass."""

    def __init__(self, seconds):
        super().__init__()
        self.model, self.seconds = classifier(), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.model(x)


def measured(path, seconds):
    x, y = images()
    return evaluate(Waiting(seconds).eval(), x, y, **SETTINGS, partial=path)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_bit(tmp_path):
    rng, path, alive = random.Random(0), tmp_path / "part.json", []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that a process starts at once
    sizes = []
    while sum(alive) < KILLS:
        process = context.Process(target=measured, args=(path, 0.02))
        process.start()
        deadline = time.monotonic() + 60
        while len(alive) == 0 and not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # the first process imports
        process.join(rng.uniform(0.05, 0.8))
        process.kill()
        process.join()
        alive.append(process.exitcode == -signal.SIGKILL)
        assert all(alive), "the measurement ended before it was killed often enough"
        sizes.append(Path(path).stat().st_size if path.exists() else 0)
    assert 0 < sizes[0] < sizes[-1]  # the kills fell into the measurement, which went on
    assert measured(path, 0.0).to_json() == measured(None, 0.0).to_json()


@pytest.mark.slow
def test_batches_of_7_and_500_give_the_same_results():
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(4000, 1, 4, 4, generator=generator)
    y = classifier()(x).argmax(1)
    y[::10] = 0
    attacks = {"PGD": PGD(steps=3, restarts=2), "AutoAttack": AutoAttack(steps=3, queries=10)}
    settings = {"eps": [8 / 255], "attacks": attacks, "noises": ["speckle_noise"], "severities": [3]}
    one, other = (evaluate(classifier(), x, y, batch_size=size, **settings) for size in (7, 500))
    assert 0.1 < one.robust_accuracy(8 / 255) < one.clean - 0.05
    for a, b in zip(one.columns, other.columns, strict=True):
        assert torch.equal(a.correct, b.correct), a.key
