"""The settings of attacks: the same defaults as the functions, checked, printable."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from dampode import robustness
from dampode.robustness import (
    FGSM,
    IFGSM,
    PGD,
    Attack,
    AttackTraits,
    RecenteredPGD,
    Square,
    Transfer,
    fgsm,
    ifgsm,
    pgd,
    recentered_pgd,
    square,
)
from tests.helpers.trained import classifier, few_digits

TWINS = [(FGSM, fgsm), (IFGSM, ifgsm), (PGD, pgd), (RecenteredPGD, recentered_pgd), (Square, square)]


@pytest.mark.parametrize(("settings", "function"), TWINS)
def test_a_class_and_its_function_have_the_same_defaults(settings, function):
    parameters = inspect.signature(function).parameters
    for field in dataclasses.fields(settings):
        assert field.default == parameters[field.name].default


@pytest.mark.parametrize(("settings", "function"), TWINS)
def test_a_class_and_its_function_give_the_same_images(settings, function):
    (x, y), model = few_digits(), classifier()
    x, y = x[:30], y[:30]
    draws = {"generator": torch.Generator().manual_seed(1)} if settings().traits.random_start else {}
    expected = function(model, x, y, 24 / 255, **draws)
    assert torch.equal(settings()(model, x, y, 24 / 255, torch.Generator().manual_seed(1), 500), expected)


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: IFGSM(alpha=-1), ValueError, "alpha must be above 0"),
        (lambda: IFGSM(steps=2.5), TypeError, "steps must be a positive int"),
        (lambda: PGD(steps=0), ValueError, "steps must be a positive int"),
        (lambda: PGD(alpha=2), ValueError, "alpha must be at most 1"),
        (lambda: PGD(restarts=0), ValueError, "restarts must be a positive int"),
        (lambda: PGD(keep="best"), ValueError, "keep must be"),
        (lambda: RecenteredPGD(alpha=float("nan")), ValueError, "alpha must be finite"),
        (lambda: Square(queries=0), ValueError, "queries must be a positive int"),
        (lambda: Transfer(FGSM()), TypeError, "source must be of type Module"),
        (lambda: Transfer(nn.Identity(), robustness.fgsm), TypeError, "attack must be of type Attack"),
    ],
)
def test_settings_are_checked_before_anything_is_measured(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_settings_are_printable():
    for attack in robustness.ATTACKS.values():
        assert repr(attack) == repr(dataclasses.replace(attack))


def test_an_attack_must_say_what_it_is():
    class Unnamed(Attack):
        def __call__(self, model, x, y, eps, generator, batch_size):
            return x

    with pytest.raises(TypeError, match=r"abstract.*traits"):
        Unnamed()
    with pytest.raises(ValueError, match="max_distance must be at least 0"):
        AttackTraits(gradient_based=True, iterated=True, max_distance=-1.0)
    with pytest.raises(TypeError, match="iterated must be of type bool, got int"):
        AttackTraits(gradient_based=True, iterated=3)
