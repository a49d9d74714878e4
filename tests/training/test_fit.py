"""What `fit` learns, and input that it refuses."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from dampode.data import Augmentation
from dampode.training import Execution, Recipe, fit, load_checkpoint
from dampode.training.checkpoint import save_checkpoint
from dampode.training.loop import require_compatible
from tests.helpers import ROOT
from tests.helpers.training import net, tiny, weights


def test_learns_a_separable_problem():
    model, images = net(), tiny()
    history = fit(model, images, Recipe(epochs=15, batch_size=8))
    assert history.loss[-1] < 0.3 < history.loss[0]
    assert history.accuracy[-1] > 0.85
    assert not history.failed
    assert len(history.loss) == len(history.accuracy) == len(history.seconds) == 15


class Both(nn.Module):
    """Logits and something beside them, as some classifiers give in training."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": net}, TypeError, "model must be of type Module, got function"),
        ({"data": "digits"}, TypeError, "data must be of type ImageData or ImageStream, got str"),
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


def test_the_seed_defines_the_draws_of_dropout():
    trained = []
    for torchs, seed in ((1, 0), (2, 0), (1, 5)):
        model = net()
        torch.manual_seed(torchs)
        before = torch.get_rng_state()
        fit(model, tiny(), Recipe(epochs=1, batch_size=40, augmentation=Augmentation(0, False)), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        trained.append(weights(model))
    assert torch.equal(trained[0], trained[1])
    assert not torch.allclose(trained[0], trained[2], atol=1e-4)


OWN = """
import sys; sys.path.insert(0, sys.argv[1])
from accelerate import Accelerator
from tests.helpers.training import net, tiny
from dampode.training import Recipe, fit
if sys.argv[2] == "before": Accelerator(mixed_precision="bf16", cpu=True)
fit(net(), tiny(), Recipe(epochs=1, batch_size=16))
assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"
fit(net(), tiny(), Recipe(epochs=1, batch_size=16))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_fit_and_a_users_own_accelerator_share_a_process(when):
    done = subprocess.run([sys.executable, "-c", OWN, str(ROOT), when], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_precision_of_accelerate_launch_is_not_ignored(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    recipe = Recipe(epochs=1, batch_size=16)
    with pytest.raises(ValueError, match="must have one precision, got --mixed_precision bf16 and fp32"):
        fit(net(), tiny(), recipe)
    fit(net(), tiny(), recipe, execution=Execution("bf16"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    fit(net(), tiny(), recipe, execution=Execution("bf16"))


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_float_type_are_given_in_the_models(dtype):
    images = tiny()
    x = images.x_train.to(dtype) / 255
    for model in (net(), net().double()):
        history = fit(model, replace(images, x_train=x, x_test=x), Recipe(epochs=15, batch_size=8))
        assert history.loss[-1] < 0.3


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


def test_micro_batches_average_their_gradients():
    """Without batch norm the pieces of a batch, of unequal sizes too, give the step of the whole batch."""
    start = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    models = []
    for pieces in (1, 3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        model.load_state_dict(start.state_dict())
        history = fit(model, tiny(), Recipe(epochs=2, batch_size=16, micro_batches=pieces))
        models.append((weights(model), torch.tensor(history.loss)))
    for one, other in zip(*models, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=1e-5, atol=1e-6)


def test_files_may_be_named_by_strings(tmp_path):
    fit(net(), tiny(), Recipe(epochs=1, batch_size=16), checkpoint=f"{tmp_path}/run.pt", logs=str(tmp_path))
    save_checkpoint(f"{tmp_path}/copy.pt", load_checkpoint(f"{tmp_path}/run.pt"))
    assert sorted(p.name for p in tmp_path.glob("*.*") if p.name[0] != ".") == ["copy.pt", "log.csv", "run.pt"]


def test_what_does_not_fit_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="batch_size must not exceed the training set, got 128 for 40 images"):
        fit(net(), tiny(), Recipe(epochs=1))
    with pytest.raises(ValueError, match="model and data must be on one device"):
        fit(net().to("meta"), tiny(), Recipe(epochs=1, batch_size=16))
    with pytest.raises(ValueError, match="takes one micro-batch per process"):
        fit(net(), tiny(), Recipe(batch_size=16, micro_batches=2), execution=Execution(compile="reduce-overhead"))
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, got 2 for 3 processes"):
        require_compatible(net(), tiny(), Recipe(batch_size=16, micro_batches=2), Execution(), 3)
    with pytest.raises(ValueError, match="checkpoint_every must be a positive int"):
        fit(net(), tiny(), Recipe(epochs=1, batch_size=16), checkpoint_every=0)
    for flags, missing in (
        ({"resume": True}, "checkpoint"),
        ({"checkpoint_every": 2}, "checkpoint"),
        ({"tensorboard": True}, "logs"),
    ):
        with pytest.raises(ValueError, match=f"got {missing}=None; name i"):
            fit(net(), tiny(), Recipe(epochs=1, batch_size=16), **flags)


def test_nothing_to_train_is_refused_in_words():
    data, recipe = tiny(), Recipe(epochs=1, batch_size=8)
    with pytest.raises(ValueError, match="there must be something to train"):
        fit(net().requires_grad_(False), data, recipe)
    with torch.no_grad(), pytest.raises(ValueError, match="there must be something to train"):
        fit(net(), data, recipe)
