"""Recipes: the paper's, learning rates, weight decay of λ, and settings that are out of range."""

import pytest
from torch import nn

from dampode import DampedBlock
from dampode.damping import Learned
from dampode.training import Recipe
from dampode.training.recipe import optimizer


def test_learning_rate_falls_at_the_milestones():
    recipe = Recipe(epochs=8, lr=0.1)
    assert [recipe.lr_at(epoch) for epoch in range(8)] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_the_first_epoch_has_the_first_learning_rate():
    for epochs in range(1, 10):
        assert Recipe(epochs=epochs, lr=0.1).lr_at(0) == 0.1


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
        {"micro_batches": 0},
    ],
)
def test_recipes_are_checked(settings):
    with pytest.raises(ValueError, match="must be"):
        Recipe(**settings)


def test_more_micro_batches_than_images_are_refused():
    with pytest.raises(ValueError, match="micro_batches must not exceed batch_size"):
        Recipe(batch_size=4, micro_batches=5)


def test_a_shared_damping_parameter_is_stepped_once():
    first, second = DampedBlock(nn.Linear(2, 2)), DampedBlock(nn.Linear(2, 2))
    second.func.damping.raw = first.func.damping.raw
    groups = optimizer(nn.Sequential(first, second), Recipe()).param_groups
    assert [len(group["params"]) for group in groups] == [4, 1]
