"""An interrupted run resumes to the same weights, and only with its own settings."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from dampode._files import only_writer
from dampode.data import Augmentation
from dampode.training import Execution, Recipe, fit, load_checkpoint
from dampode.training.checkpoint import save_checkpoint
from tests.helpers import ROOT
from tests.helpers.training import Interrupt, net, tiny, weights


@pytest.mark.parametrize(("every", "done", "steps"), [(None, 2, 0), (1, 2, 1)])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, every, done, steps):
    recipe, path = Recipe(epochs=4, batch_size=16), tmp_path / "a" / "run.pt"
    whole = nn.Sequential(Interrupt(-1), net())
    expected = fit(whole, tiny(), recipe, seed=3)

    with pytest.raises(KeyboardInterrupt):
        # 3 steps an epoch, so the eighth is the second of the third epoch
        fit(nn.Sequential(Interrupt(8), net()), tiny(), recipe, seed=3, checkpoint=path, checkpoint_every=every)
    state = load_checkpoint(path)
    assert (len(state["history"]["loss"]), state["position"]["step"]) == (done, steps)
    torch.manual_seed(99)  # dropout's draws come from the checkpoint
    resumed = nn.Sequential(Interrupt(-1), net())
    history = fit(resumed, tiny(), recipe, seed=3, checkpoint=path, resume=True)
    assert history.loss == expected.loss
    assert history.accuracy == expected.accuracy
    assert torch.equal(weights(resumed), weights(whole))


class Slow(nn.Module):
    """The identity, after a while."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


RUN = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.training.test_resume import Slow
from tests.helpers.training import net, tiny
from dampode.training import Recipe, fit
import torch
recipe = Recipe(epochs=1000, batch_size=8)
fit(torch.nn.Sequential(Slow(0.02), net()), tiny(), recipe, seed=3, checkpoint=Path(sys.argv[1]), checkpoint_every=2)
"""


def test_kill_9_in_mid_epoch_resumes_to_the_same_weights(tmp_path):
    path = tmp_path / "run.pt"
    process = subprocess.Popen([sys.executable, "-c", RUN, path, str(ROOT)], stderr=subprocess.DEVNULL)
    try:
        state = {"position": {"step": 0}, "history": {"loss": []}}
        deadline = time.monotonic() + 120
        while not (state["position"]["step"] and state["history"]["loss"]) and time.monotonic() < deadline:
            time.sleep(0.01)
            state = load_checkpoint(path) if path.exists() else state
    finally:
        process.kill()
        process.wait()
    state = load_checkpoint(path)
    epochs = len(state["history"]["loss"]) + 2
    assert epochs > 2
    recipe = Recipe(epochs=1000, batch_size=8)
    whole, resumed = (nn.Sequential(Slow(0), net()) for _ in range(2))
    # the learning rate is constant for the first 500 epochs, so a shorter recipe with late milestones is the same run
    short = replace(recipe, epochs=epochs, milestones=(1.0,))
    fit(whole, tiny(), short, seed=3)
    state["settings"]["recipe"] |= {"epochs": epochs, "milestones": (1.0,)}
    save_checkpoint(path, state)
    fit(resumed, tiny(), short, seed=3, checkpoint=path, resume=True)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_checkpoint_of_another_run_is_refused_by_the_field_that_differs(tmp_path):
    path, recipe = tmp_path / "run.pt", Recipe(epochs=1, batch_size=16)
    first = {"checkpoint": path, "identity": {"low": 0.2}}
    fit(net(), tiny(), recipe, **first)
    fit(net(), tiny(), recipe, **first, resume=True)
    reflect = Augmentation(2, mode="reflect")
    for images, other, changes, field in (
        (tiny().subset(train=39), recipe, {}, "data.images is 40 there and 39 here"),
        (replace(tiny(), x_train=tiny().x_train.flip(-1)), recipe, {}, "data.sha256 is .* there and .* here"),
        (replace(tiny(), x_train=tiny().x_train.roll(2, 0)), recipe, {}, "data.sha256 is .* there and .* here"),
        (replace(tiny(), augmentation=reflect), recipe, {}, "augmentation.pad is 1 there and 2 here"),
        (tiny(), recipe, {"identity": {"low": 0.9}}, "identity.low is 0.2 there and 0.9 here"),
        (tiny(), replace(recipe, lr=0.2), {}, r"recipe.lr is 0.1 there and 0.2 here; resume"),
        (tiny(), replace(recipe, augmentation=reflect), {}, "recipe.augmentation.pad is unset there and 2 here"),
        (tiny(), recipe, {"seed": 1}, "seed is 0 there and 1 here"),
        (tiny(), recipe, {"execution": Execution("bf16")}, "execution.precision is fp32 there and bf16 here"),
    ):
        with pytest.raises(ValueError, match=f"must have the settings asked for: .*{field}"):
            fit(net(), images, other, **{**first, **changes}, resume=True)
    model = net()
    model[1].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"frozen is \[\] there and \['1.weight'\] here"):
        fit(model, tiny(), recipe, **first, resume=True)


def test_a_finished_run_resumes_with_more_epochs(tmp_path):
    """As if it had been the longer run from the start, if the epochs done keep their learning rates."""
    path, short = tmp_path / "run.pt", Recipe(epochs=2, batch_size=16, milestones=(0.5,))
    longer = replace(short, epochs=4, milestones=(0.25, 0.75))
    whole, resumed = net(), net()
    expected = fit(whole, tiny(), longer)
    fit(net(), tiny(), short, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"epoch 2 of 2 had 0\.01 and has 0\.1 .* use milestones=\(0\.25,\)"):
        fit(net(), tiny(), replace(short, epochs=4), checkpoint=path, resume=True)
    with pytest.raises(ValueError, match=r"recipe\.epochs must be at least the epochs in .*, got 1 for 2"):
        fit(net(), tiny(), replace(short, epochs=1), checkpoint=path, resume=True)
    assert path.read_bytes() == before
    assert fit(resumed, tiny(), longer, checkpoint=path, resume=True).loss == expected.loss
    assert torch.equal(weights(resumed), weights(whole))


def test_without_a_terminal_every_epoch_is_a_line(capsys):
    fit(net(), tiny(), Recipe(epochs=2, batch_size=16), label="digits")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["digits: epoch 1 of 2", "digits: epoch 2 of 2"]


class Scale(nn.Module):
    """Numbers of its own, which its printed form does not tell."""

    def __init__(self, *shape):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.factor * x


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    path, recipe = tmp_path / "run.pt", Recipe(epochs=1, batch_size=16)
    fit(nn.Sequential(net(), Scale()), tiny(), recipe, checkpoint=path)
    before = path.read_bytes()
    for other, message in (
        (nn.Sequential(net()[:4], Scale()), r"another architecture: at '0\.4' .* has Dropout\(p=0.1"),
        (nn.Sequential(net(), Scale(2)), r"must be of this architecture: (.|\n)*size mismatch for 1\.factor"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(other, tiny(), recipe, checkpoint=path, resume=True)
    assert path.read_bytes() == before


def test_a_second_run_on_one_file_is_refused(tmp_path):
    path, recipe = tmp_path / "run.pt", Recipe(epochs=1, batch_size=16)
    with only_writer(path), pytest.raises(OSError, match=r"only one run may write .*run\.pt"):
        fit(net(), tiny(), recipe, checkpoint=path)
    fit(net(), tiny(), recipe, checkpoint=path)
