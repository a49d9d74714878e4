"""Two processes that measure together give the report of one, also after both were killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from dampode.robustness import FGSM, PGD, Square, UniformNoise, evaluate
from tests.helpers import ROOT

ATTACKS = {"noise": UniformNoise(), "FGSM": FGSM(), "PGD": PGD(steps=3), "Square": Square(queries=10)}
SETTINGS = {"eps": [8 / 255, 16 / 255], "attacks": ATTACKS, "noises": ["shot_noise"], "severities": [5]}
RUN = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.robustness.test_processes import measured
measured(Path(sys.argv[1]), *sys.argv[3:])
"""


def classifier():
    """A small network of fixed random weights."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def images():
    """1,073 images, two blocks, of which the second is small and odd. The labels are the network's, with mistakes."""
    x = torch.rand(1073, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = classifier()(x).argmax(1)
    y[::10] = 0
    return x, y


class Slow(nn.Module):
    """The classifier, after a while."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        time.sleep(0.004)
        return self.model(x)


def measured(out, resumes=""):
    """What each process does: the first launch ends in a measurement that is killed."""
    rank, (x, y) = os.environ["RANK"], images()
    if not resumes:
        report = evaluate(classifier(), x, y, **SETTINGS)
        (out / f"report-{rank}.json").write_text(report.to_json())
        few = evaluate(classifier(), x[:1], y[:1], eps=[0.1], attacks={"FGSM": FGSM()}, noises=())
        assert few.n == 1  # the second process has no image
        if rank == "0":  # a call of one process only
            evaluate(classifier(), x[:9], y[:9], eps=[0.1], attacks={}, noises=(), together=False)
        words_of_errors(x, y, out, int(rank))
        (out / f"pid-{rank}").write_text(str(os.getpid()))
    report = evaluate(Slow().eval(), x, y, **SETTINGS, partial=out / "part.json")
    (out / f"resumed-{rank}.json").write_text(report.to_json())


def words_of_errors(x, y, out, rank):
    """An error of one process ends all, in words."""
    (out / "damaged.json").write_text("no")
    settings = {"eps": [0.1], "attacks": {}, "noises": ()}
    for model, labels, partial, words in (
        (classifier(), y, out / "damaged.json", "must be a partial measurement; it is damaged"),
        (classifier(), y.roll(rank), None, "all processes must measure the same model on the same images"),
        (Fails(rank).eval(), y, None, "the second process fails"),
        (Scaled(1 + rank).eval(), y, None, "another process has a partial measurement of another model"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(model, x, labels, partial=partial, **settings)


class Fails(nn.Module):
    """The classifier, which fails in the second process once it measures."""

    def __init__(self, rank):
        super().__init__()
        self.model, self.rank = classifier(), rank

    def forward(self, x):
        if self.rank == 1 and len(x) > 20:
            raise ValueError("the second process fails")
        return self.model(x)


class Scaled(nn.Module):
    """The classifier times an attribute, which no fingerprint sees."""

    def __init__(self, scale):
        super().__init__()
        self.model, self.scale = classifier(), scale

    def forward(self, x):
        return self.scale * self.model(x)


def launched(out, *what):
    (out / "run.py").write_text(RUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(out / "run.py"), str(out), str(ROOT), *what]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_give_the_report_of_one_and_resume_after_a_kill(tmp_path):
    with launched(tmp_path) as process:
        killed, deadline = False, time.monotonic() + 250
        while process.poll() is None and time.monotonic() < deadline and not killed:
            time.sleep(0.02)
            if (tmp_path / "part.json").exists() and (tmp_path / "part.json").read_text().count('"correct"') >= 5:
                os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
                killed = True
        _, errors = process.communicate(timeout=100)  # the launcher ends the other process
    assert killed, errors
    x, y = images()
    expected = evaluate(classifier(), x, y, **SETTINGS)
    for rank in range(2):
        assert (tmp_path / f"report-{rank}.json").read_text() == expected.to_json()
    assert 0.2 < expected.robust_accuracy(16 / 255) < expected.clean  # so that equal flags mean something
    assert not torch.equal(expected.worst_case(16 / 255), expected.worst_case(8 / 255))

    part = (tmp_path / "part.json").read_text()
    assert 5 <= part.count('"correct"') < 24
    with launched(tmp_path, "resumes") as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    whole = evaluate(Slow().eval(), x, y, **SETTINGS).to_json()
    assert (tmp_path / "resumed-0.json").read_text() == (tmp_path / "resumed-1.json").read_text() == whole
    (tmp_path / "part.json").write_text(part)
    assert evaluate(Slow().eval(), x, y, **SETTINGS, partial=tmp_path / "part.json").to_json() == whole
