import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from dampode import training
from dampode.damping import Learned
from dampode.data import Augmentation, ImageData
from dampode.training import Recipe, fit


def tiny():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randint(0, 100, (40, 1, 4, 4), dtype=torch.uint8, generator=generator)
    x += (y * 100).to(torch.uint8)[:, None, None, None]
    return ImageData("tiny", x, y, x, y, 2, Augmentation(pad=1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_learns_a_separable_problem():
    model, images = net(), tiny()
    history = fit(model, images, Recipe(epochs=15, batch_size=8))
    assert history.loss[-1] < 0.2 < history.loss[0]
    assert not history.diverged
    assert len(history.loss) == 15


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    recipe, path = Recipe(epochs=4, batch_size=16), tmp_path / "a" / "run.pt"
    whole = net()
    fit(whole, tiny(), recipe, seed=3)

    epoch, calls = training._epoch, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return epoch(*args)

    monkeypatch.setattr(training, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), tiny(), recipe, seed=3, checkpoint=path)
    monkeypatch.undo()
    assert len(training.load_checkpoint(path)["history"]["loss"]) == 2
    resumed = net()
    history = fit(resumed, tiny(), recipe, seed=3, checkpoint=path, resume=True)
    assert len(history.loss) == 4
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    code = """
        import signal, sys; sys.path.insert(0, sys.argv[2])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell would have it ignored
        from pathlib import Path
        from test_training import net, tiny
        from dampode.training import Recipe, fit
        fit(net(), tiny(), Recipe(epochs=100000, batch_size=40), checkpoint=Path(sys.argv[1]))
    """
    path = tmp_path / "run.pt"
    tests = os.path.dirname(__file__)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), path, tests], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
    assert len(training.load_checkpoint(path)["history"]["loss"]) >= 1


def test_a_checkpoint_of_other_data_or_identity_is_refused(tmp_path):
    path, recipe = tmp_path / "run.pt", Recipe(epochs=1, batch_size=16)
    fit(net(), tiny(), recipe, checkpoint=path, identity={"low": 0.2})
    fit(net(), tiny(), recipe, checkpoint=path, identity={"low": 0.2}, resume=True)
    for images, identity in ((tiny().subset(train=39), {"low": 0.2}), (tiny(), {"low": 0.9})):
        with pytest.raises(ValueError, match="must be of this run"):
            fit(net(), images, recipe, checkpoint=path, identity=identity, resume=True)


def test_a_last_batch_of_one_joins_the_one_before():
    assert len(fit(net(), tiny().subset(train=33), Recipe(epochs=1, batch_size=16)).loss) == 1


def test_divergence_is_said_and_ends_the_run():
    model = net()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    history = fit(model, tiny(), Recipe(epochs=5, batch_size=8))
    assert history.diverged
    assert len(history.loss) == 1


def test_learning_rate_falls_at_the_milestones(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "_epoch", lambda m, d, r, optimizer, g, b: seen.append(optimizer) or lr(optimizer))
    rates = fit(net(), tiny(), Recipe(epochs=8, lr=0.1)).loss
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def lr(optimizer):
    return optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("decay_damping", [True, False])
def test_decay_on_damping_parameters_is_a_switch(decay_damping):
    model = nn.Sequential(nn.Linear(2, 2), Learned())
    optimizer = training._optimizer(model, Recipe(weight_decay=0.5, decay_damping=decay_damping))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model[0].weight)] == 0.5
    assert decays[id(model[1].raw)] == (0.5 if decay_damping else 0.0)


def test_checkpoints_are_refused_in_words(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match="must exist"):
        training.load_checkpoint(path)
    fit(net(), tiny(), Recipe(epochs=1), checkpoint=path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="must be of this run"):
        fit(net(), tiny(), Recipe(epochs=2), checkpoint=path, resume=True)
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match="must be of this architecture"):
        fit(other, tiny(), Recipe(epochs=1), checkpoint=path, resume=True)
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged or of another kind"):
            training.load_checkpoint(path)
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of dampode\.training"):
        training.load_checkpoint(path)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(net(), tiny(), Recipe(epochs=1), checkpoint=path)
    before = path.read_bytes()

    def full_disk(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match=r"could not be written .*No space left.* untouched"):
        fit(net(), tiny(), Recipe(epochs=1), checkpoint=path)
    assert path.read_bytes() == before


def test_an_unwritable_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="output folder must be writable"):
        training.require_writable(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"lr": 0.0},
        {"momentum": -1.0},
        {"momentum": 1.0},
        {"weight_decay": float("nan")},
    ],
)
def test_recipes_are_checked(settings):
    with pytest.raises(ValueError, match="must be"):
        Recipe(**settings)
