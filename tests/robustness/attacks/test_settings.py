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
    few = {"queries": 50} if settings is Square else {}
    expected = function(model, x, y, 24 / 255, **few, **draws)
    assert torch.equal(settings(**few)(model, x, y, 24 / 255, torch.Generator().manual_seed(1), 500), expected)


def test_the_default_step_is_a_quarter_of_the_radius():
    (x, y), model = few_digits(), classifier()
    x, y = x[:30], y[:30]
    for eps in (1 / 255, 24 / 255):
        assert torch.equal(ifgsm(model, x, y, eps), ifgsm(model, x, y, eps, alpha=eps / 4))
        for norm in ("linf", "l2"):
            by_default, given = (
                pgd(model, x, y, eps, alpha=alpha, norm=norm, generator=torch.Generator().manual_seed(0))
                for alpha in (None, eps / 4)
            )
            assert torch.equal(by_default, given)


def test_the_paper_s_protocol_has_a_name():
    """Sec. 4.2: alpha = 2/255 at every radius, 20 steps, the last iterate."""
    assert {"FGSM": FGSM(), "IFGSM": IFGSM(2 / 255, 20, "last"), "PGD": PGD(2 / 255, 20, 1, "last")} == robustness.PAPER


@pytest.mark.parametrize("attack", [IFGSM, PGD])
def test_shorter_steps_are_at_most_half_and_at_most_a_quarter_of_the_radius(attack):
    for alpha, eps, expected in ((None, 0.08, 0.01), (0.3, 0.08, 0.02), (0.02, 0.08, 0.01), (0.004, 0.08, 0.002)):
        assert attack(alpha=alpha).with_shorter_steps(eps).alpha == pytest.approx(expected)


def test_a_norm_is_printed_where_it_is_not_the_usual():
    assert repr(PGD(2 / 255, keep="last")) == f"PGD(alpha={2 / 255}, steps=20, restarts=1, keep='last')"
    assert repr(PGD(norm="l2")) == "PGD(alpha=None, steps=20, restarts=1, keep='strongest', norm='l2')"
    assert [repr(FGSM()), repr(FGSM("l2"))] == ["FGSM()", "FGSM(norm='l2')"]


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
