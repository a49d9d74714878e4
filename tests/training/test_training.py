import csv
import importlib
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from dampode import DampedBlock, training
from dampode.damping import Learned
from dampode.data import Augmentation, ImageData
from dampode.training import Execution, Recipe, fit
from dampode.training.loop import _require_fit
from dampode.training.recipe import optimizer
from tests.helpers import ROOT


def tiny():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randint(0, 100, (40, 1, 4, 4), dtype=torch.uint8, generator=generator)
    x += (y * 100).to(torch.uint8)[:, None, None, None]
    return ImageData("tiny", x, y, x, y, 2, Augmentation(pad=1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def test_learns_a_separable_problem():
    model, images = net(), tiny()
    history = fit(model, images, Recipe(epochs=15, batch_size=8))
    assert history.loss[-1] < 0.3 < history.loss[0]
    assert history.accuracy[-1] > 0.85
    assert not history.failed
    assert len(history.loss) == len(history.accuracy) == len(history.seconds) == 15


class Interrupt(nn.Module):
    """The identity, which raises KeyboardInterrupt at its n-th call."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return x


@pytest.mark.parametrize(("every", "done", "steps"), [(None, 2, 0), (1, 2, 1)])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, every, done, steps):
    recipe, path = Recipe(epochs=4, batch_size=16), tmp_path / "a" / "run.pt"
    whole = nn.Sequential(Interrupt(-1), net())
    expected = fit(whole, tiny(), recipe, seed=3)

    with pytest.raises(KeyboardInterrupt):
        # 3 steps an epoch, so the eighth is the second of the third epoch
        fit(nn.Sequential(Interrupt(8), net()), tiny(), recipe, seed=3, checkpoint=path, checkpoint_every=every)
    state = training.load_checkpoint(path)
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
from tests.training.test_training import Slow, net, tiny
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
            state = training.load_checkpoint(path) if path.exists() else state
    finally:
        process.kill()
        process.wait()
    state = training.load_checkpoint(path)
    epochs = len(state["history"]["loss"]) + 2
    assert epochs > 2
    recipe = Recipe(epochs=1000, batch_size=8)
    whole, resumed = (nn.Sequential(Slow(0), net()) for _ in range(2))
    # the learning rate is constant for the first 500 epochs, so a shorter recipe with late milestones is the same run
    short = replace(recipe, epochs=epochs, milestones=(1.0,))
    fit(whole, tiny(), short, seed=3)
    state["settings"]["recipe"] |= {"epochs": epochs, "milestones": (1.0,)}
    training.save_checkpoint(path, state)
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


class Both(nn.Module):
    """Logits and something beside them, as some classifiers give in training."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": net}, TypeError, "model must be of type Module, got function"),
        ({"data": "digits"}, TypeError, "data must be of type ImageData, got str"),
        ({"recipe": {"epochs": 1}}, TypeError, "recipe must be of type Recipe, got dict"),
        ({"execution": "bf16"}, TypeError, "execution must be of type Execution, got str"),
        ({"data": replace(tiny(), num_classes=3)}, ValueError, "a logit for each class, got 2 for data of 3 classes"),
        (
            {"model": nn.Sequential(net(), nn.Flatten(0))},
            ValueError,
            r"must give logits \(N, classes\), got shape \(32,\)",
        ),
        ({"model": nn.Sequential(net(), Both())}, TypeError, "model's output must be of type Tensor, got tuple"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_words(changed, error, message):
    with pytest.raises(error, match=message):
        fit(**{"model": net(), "data": tiny(), "recipe": Recipe(epochs=1, batch_size=16), **changed})


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


def test_a_last_batch_of_one_joins_the_one_before():
    assert len(fit(net(), tiny().subset(train=33), Recipe(epochs=1, batch_size=16)).loss) == 1


def test_a_failed_run_is_said():
    model = net()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    history = fit(model, tiny(), Recipe(epochs=5, batch_size=8))
    assert history.diverged
    assert history.failed
    assert len(history.loss) == 1  # a loss that is not finite ends the run

    blind = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        for parameter in blind.parameters():
            parameter.zero_()
    history = fit(blind, tiny(), Recipe(epochs=2, batch_size=40, lr=1e-30))
    assert history.accuracy == [0.5, 0.5]
    assert history.at_chance
    assert history.failed
    assert not history.diverged


def test_learning_rate_falls_at_the_milestones():
    recipe = Recipe(epochs=8, lr=0.1)
    assert [recipe.lr_at(epoch) for epoch in range(8)] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_the_first_epoch_has_the_first_learning_rate():
    for epochs in range(1, 10):
        assert Recipe(epochs=epochs, lr=0.1).lr_at(0) == 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_float_type_are_given_in_the_models(dtype):
    images = tiny()
    x = images.x_train.to(dtype) / 255
    for model in (net(), net().double()):
        history = fit(model, replace(images, x_train=x, x_test=x), Recipe(epochs=15, batch_size=8))
        assert history.loss[-1] < 0.3


def test_the_papers_recipes():
    """Sec. 4.1's numbers."""
    for recipe, epochs, lr, decay, milestones in (
        (Recipe.cifar10(), 160, 0.1, 1e-4, (80, 120)),
        (Recipe.cifar100(), 300, 0.1, 1e-4, (150, 225)),
        (Recipe.resnext(), 300, 0.05, 5e-4, (150, 225)),
    ):
        assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (epochs, 128, 0.9, decay)
        falls = [e for e in range(1, epochs) if recipe.lr_at(e) < recipe.lr_at(e - 1)]
        assert tuple(falls) == milestones
        assert recipe.lr_at(0) == lr
        assert recipe.lr_at(epochs - 1) == pytest.approx(lr / 100)


@pytest.mark.parametrize("decay_damping", [True, False])
def test_decay_on_damping_parameters_is_a_switch(decay_damping):
    model = nn.Sequential(nn.Linear(2, 2), Learned())
    groups = optimizer(model, Recipe(weight_decay=0.5, decay_damping=decay_damping)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(model[0].weight)] == 0.5
    assert decays[id(model[1].raw)] == (0.5 if decay_damping else 0.0)


def test_one_epoch_is_plain_sgd():
    """Against a loop written out: momentum, decay, the order and the draws of the seed."""
    recipe = Recipe(epochs=1, batch_size=16, momentum=0.5, weight_decay=0.1, milestones=())
    images, model, plain = tiny(), *(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    fit(model, images, recipe, seed=7)
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(40, generator=generator)
    speed = [torch.zeros_like(p) for p in plain.parameters()]
    for chosen in order.split(16):
        x = images.augmentation(images.x_train[chosen], generator).float() / 255
        gradients = torch.autograd.grad(
            nn.functional.cross_entropy(plain(x), images.y_train[chosen]), list(plain.parameters())
        )
        with torch.no_grad():
            for p, v, g in zip(plain.parameters(), speed, gradients, strict=True):
                v.mul_(0.5).add_(g + 0.1 * p)
                p -= 0.1 * v
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)


def test_parts_average_their_gradients():
    """Without batch norm the parts of a batch, unequal ones too, give the whole batch's step."""
    start = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    models = []
    for parts in (1, 3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        model.load_state_dict(start.state_dict())
        history = fit(model, tiny(), Recipe(epochs=2, batch_size=16, parts=parts))
        models.append((weights(model), torch.tensor(history.loss)))
    for one, other in zip(*models, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-5, atol=1e-6)


def read(logs):
    with open(logs / "log.csv") as file:
        return list(csv.DictReader(file))


def damped(interrupt):
    torch.manual_seed(0)
    return nn.Sequential(
        Interrupt(interrupt), nn.Flatten(), nn.Linear(16, 8), DampedBlock(nn.Linear(8, 8)), nn.Linear(8, 2)
    )


def test_logs_hold_every_epoch_once(tmp_path):
    recipe, path, logs = Recipe(epochs=3, batch_size=16), tmp_path / "run.pt", tmp_path / "logs"
    flags = {"checkpoint": path, "logs": logs, "tensorboard": True}
    with pytest.raises(KeyboardInterrupt):
        fit(damped(8), tiny(), recipe, **flags)
    assert [row["epoch"] for row in read(logs)] == ["1", "2"]
    time.sleep(1.1)  # TensorBoard's files are ordered by the second
    fit(damped(-1), tiny(), recipe, logs=logs, tensorboard=True)  # as if killed between a log and its checkpoint
    time.sleep(1.1)
    fit(damped(-1), tiny(), recipe, **flags, resume=True)
    rows = read(logs)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    history = training.load_checkpoint(path)["history"]
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert [float(row["lam_max"]) for row in rows] == [lam[2] for lam in history["lam"]]
    assert [float(row["lr"]) for row in rows] == [recipe.lr_at(e) for e in range(3)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs), purge_orphaned_data=True)
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(history["loss"], rel=1e-6)


def test_a_finished_run_is_logged_in_another_folder_too(tmp_path):
    flags = {"checkpoint": tmp_path / "run.pt", "resume": True}
    first, again = tmp_path / "first", tmp_path / "again"
    for logs in (first, again):
        fit(net(), tiny(), Recipe(epochs=2, batch_size=16), logs=logs, **flags)
    assert (again / "log.csv").read_text() == (first / "log.csv").read_text()


def test_tensorboard_that_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"install dampode\[train\]"):
        fit(net(), tiny(), Recipe(epochs=1, batch_size=16), logs=tmp_path, tensorboard=True)


@pytest.mark.parametrize("package", ["accelerate", "tqdm"])
def test_a_package_that_is_missing_is_said(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "dampode.training")
    with pytest.raises(ImportError, match=rf"training needs {package}: install dampode\[train\]"):
        importlib.import_module("dampode.training")


def test_files_may_be_named_by_strings(tmp_path):
    fit(net(), tiny(), Recipe(epochs=1, batch_size=16), checkpoint=f"{tmp_path}/run.pt", logs=str(tmp_path))
    training.save_checkpoint(f"{tmp_path}/copy.pt", training.load_checkpoint(f"{tmp_path}/run.pt"))
    assert sorted(p.name for p in tmp_path.glob("*.*") if p.name[0] != ".") == ["copy.pt", "log.csv", "run.pt"]


def test_what_does_not_fit_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="batch_size must not exceed the training set, got 128 for 40 images"):
        fit(net(), tiny(), Recipe(epochs=1))
    with pytest.raises(ValueError, match="model and data must be on one device"):
        fit(net().to("meta"), tiny(), Recipe(epochs=1, batch_size=16))
    with pytest.raises(ValueError, match="takes one part a process"):
        fit(net(), tiny(), Recipe(batch_size=16, parts=2), execution=Execution(compile="reduce-overhead"))
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, got 2 for 3 processes"):
        _require_fit(net(), tiny(), Recipe(batch_size=16, parts=2), Execution(), 3)
    with pytest.raises(ValueError, match="checkpoint_every must be a positive int"):
        fit(net(), tiny(), Recipe(epochs=1, batch_size=16), checkpoint_every=0)
    for flags, missing in (
        ({"resume": True}, "checkpoint"),
        ({"checkpoint_every": 2}, "checkpoint"),
        ({"tensorboard": True}, "logs"),
    ):
        with pytest.raises(ValueError, match=f"got {missing}=None; name i"):
            fit(net(), tiny(), Recipe(epochs=1, batch_size=16), **flags)


def test_a_second_run_on_one_file_is_refused(tmp_path):
    path, recipe = tmp_path / "run.pt", Recipe(epochs=1, batch_size=16)
    with training.only_writer(path), pytest.raises(OSError, match=r"only one run may write .*run\.pt"):
        fit(net(), tiny(), recipe, checkpoint=path)
    fit(net(), tiny(), recipe, checkpoint=path)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"lr": 0.0},
        {"momentum": -1.0},
        {"momentum": 1.0},
        {"milestones": (80, 120)},
        {"weight_decay": float("nan")},
        {"parts": 0},
    ],
)
def test_recipes_are_checked(settings):
    with pytest.raises(ValueError, match="must be"):
        Recipe(**settings)


def test_more_parts_than_images_are_refused():
    with pytest.raises(ValueError, match="parts must not exceed batch_size"):
        Recipe(batch_size=4, parts=5)


def test_a_shared_damping_parameter_is_stepped_once():
    first, second = DampedBlock(nn.Linear(2, 2)), DampedBlock(nn.Linear(2, 2))
    second.func.damping.raw = first.func.damping.raw
    groups = optimizer(nn.Sequential(first, second), Recipe()).param_groups
    assert [len(group["params"]) for group in groups] == [4, 1]


def test_nothing_to_train_is_refused_in_words():
    data, recipe = tiny(), Recipe(epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="there must be something to train"):
        fit(net().requires_grad_(False), data, recipe)
    with torch.no_grad(), pytest.raises(ValueError, match="there must be something to train"):
        fit(net(), data, recipe)
