"""Sanity checks: defences that hide their gradients fail, undefended networks pass, and traits decide."""

from dataclasses import dataclass, replace
from typing import ClassVar

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode import EquilibriumBlock, data, plots
from dampode.damping import Constant
from dampode.integrators import SteadyState
from dampode.models import unrolled
from dampode.robustness import (
    FGSM,
    IFGSM,
    PGD,
    Attack,
    AttackTraits,
    RecenteredPGD,
    Report,
    Transfer,
    accuracy,
    evaluate,
    ifgsm,
    pgd,
    sanity_checks,
)
from dampode.robustness.results import SanityCheck, all_passed
from tests.helpers.reports import PASSED, column
from tests.helpers.trained import classifier, few_digits

FROM_RANDOM_START = "an iterated attack from a random start is at least as strong as an iterated attack"


def outcomes(report):
    return {check.name: check.passed for check in report.checks}


def test_a_plain_network_passes(plain):
    assert plain.passed is True, plain.markdown()
    assert [check.name for check in plain.checks if check.passed is None] == ["a transferred attack is not stronger"]
    assert len(plain.checks) == 16


def adversarially_trained():
    """The plain network, trained further on images of a PGD of two steps."""
    images = data.load("digits")
    x, y = data.pixels(images.x_train), images.y_train
    model = classifier()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(3):
            for chosen in torch.randperm(len(x)).split(64):
                attacked = pgd(model, x[chosen], y[chosen], 24 / 255, alpha=18 / 255, steps=2, keep="last")
                optimizer.zero_grad()
                F.cross_entropy(model(attacked), y[chosen]).backward()
                optimizer.step()
    return model


def test_an_adversarially_trained_network_passes():
    x, y = (part[:60] for part in few_digits())
    report = evaluate(adversarially_trained(), x, y, eps=[24 / 255], noises=(), attacks={"PGD": PGD(keep="first")})
    undefended = accuracy(classifier(), pgd(classifier(), x, y, 24 / 255, keep="first"), y)
    assert report.robust_accuracy(24 / 255) > undefended + 0.1
    assert report.passed is True, report.markdown()
    checks = {check.name: check.detail for check in report.checks}
    assert "on 0.0 % of images" in checks["the gradient agrees with finite differences"]


class Saturated(nn.Module):
    """Logits so large that float32 cross entropy has a gradient of exactly zero where the prediction is right."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return 1e4 * self.model(x)


class Quantized(nn.Module):
    """A front layer that rounds pixels to eight levels: its derivative is zero almost everywhere."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model((7 * x).round() / 7)


class Shattered(nn.Module):
    """Quantized, with a small smooth ripple in place of the zero derivative: gradients that lead nowhere."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model((7 * x).round() / 7 + 1e-3 * torch.sin(2000 * x))


class Cold(nn.Module):
    """A softmax of low temperature: its gradient vanishes in float32 where the prediction is right."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(x) / 0.02


class Noisy(nn.Module):
    """The classifier of images with random noise."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(x + 0.1 * torch.randn_like(x))


class StoppedEquilibrium(nn.Module):
    """The classifier of x + z / 4 with z = tanh(W z + x), stopped far from the equilibrium.

    The gradient is that of the implicit function theorem, which holds at an equilibrium only.
    """

    def __init__(self):
        super().__init__()
        self.model = classifier()
        self.register_buffer("w", torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 2)

    def forward(self, x):
        u = x.flatten(1)
        z = torch.zeros_like(u)
        with torch.no_grad():
            for _ in range(12):
                z = torch.tanh(z @ self.w.T + u)
        f = torch.tanh(z @ self.w.T + u)
        jacobian = (1 - f.detach() ** 2)[:, :, None] * self.w
        z = z + torch.linalg.solve(torch.eye(64).to(jacobian) - jacobian, f - f.detach())
        return self.model(x + z.view_as(x) / 4)


ZERO = "the gradient is not exactly zero"
AGREES = "the gradient agrees with finite differences"
SEARCH = "a search without gradients is not stronger"
SCALE = "a loss that ignores the logits' scale is at most 5 points stronger"
FUNCTION = "the model is a function of the image"


@pytest.mark.parametrize(
    ("masked", "caught"),
    [
        (Saturated, {ZERO, SCALE, SEARCH}),
        (Cold, {ZERO, SCALE, SEARCH}),
        (Quantized, {ZERO, AGREES, SEARCH}),
        (Shattered, {AGREES, SEARCH}),
        (Noisy, {FUNCTION, AGREES}),
        (StoppedEquilibrium, {AGREES, SEARCH}),
    ],
)
def test_hidden_gradients_are_caught_by_two_checks(masked, caught):
    x, y = few_digits()
    report = evaluate(masked().eval(), x, y, eps=[8 / 255, 32 / 255], noises=())
    failed = {check.name for check in report.checks if check.passed is False}
    assert caught <= failed, report.markdown()
    named = {ZERO, AGREES, SCALE, FUNCTION}  # the checks that tell the mechanism
    assert caught & named == failed & named
    assert report.passed is False
    assert "**A sanity check failed" in report.markdown()
    for name in caught:
        assert f"| {name} | **failed** |" in report.markdown()


@pytest.mark.parametrize("masked", [Saturated, Quantized, Shattered])
def test_hidden_gradients_look_robust(masked):
    x, y = few_digits()
    attacks = {"PGD": PGD(keep="first")}
    report = evaluate(masked().eval(), x, y, eps=[8 / 255], noises=(), attacks=attacks)
    assert report.column("PGD", 8 / 255).accuracy > 0.9


def test_a_weak_attack_is_caught():
    """α too small to cross the ball in its steps."""
    x, y = few_digits()
    report = evaluate(classifier(), x, y, eps=[24 / 255], noises=(), attacks={"PGD": PGD(alpha=1 / 255, steps=8)})
    failed = [check.name for check in report.checks if check.passed is False]
    assert "twice the steps change less than 0.5 points" in failed


class Valley(nn.Module):
    """Class 1 only where the mean pixel is about ε/2 above 1/2, which is inside the ball and not on its faces."""

    def forward(self, x):
        away = (x.mean((1, 2, 3)) - 0.5) / 0.1 - 0.5
        return torch.stack([torch.zeros_like(away), 1 - 4 * away.abs()], 1)


def test_a_step_that_is_too_long_is_caught():
    """With α = 2 ε the iteration jumps between the faces of the ball, and twice the steps do not help it."""
    x, y, eps = torch.full((50, 1, 1, 1), 0.5), torch.zeros(50, dtype=torch.int64), 0.1
    for attack, left, passed in ((PGD(2 * eps, keep="last"), 1.0, False), (PGD(keep="first"), 0.0, True)):
        report = evaluate(Valley().eval(), x, y, eps=[eps], noises=(), attacks={"PGD": attack})
        assert report.column("PGD", eps).accuracy == left
        assert outcomes(report)["shorter steps change less than 0.5 points"] is passed
        assert outcomes(report)["twice the steps change less than 0.5 points"] is True


def test_norms_are_not_compared():
    columns = [column("PGD", 0.1, 500), replace(column("FGSM", 0.1, 300), traits=FGSM("l2").traits)]
    assert all(check.passed is not False for check in sanity_checks.check(columns))
    assert any(c.passed is False for c in sanity_checks.check([columns[0], column("FGSM", 0.1, 300)]))


def test_a_transfer_that_is_stronger_is_caught():
    """The plain twin's examples break a network that hides its gradients."""
    x, y = few_digits()
    attacks = {"PGD": PGD(alpha=4 / 255, steps=10), "twin": Transfer(classifier(), IFGSM(keep="last"))}
    report = evaluate(Saturated().eval(), x, y, eps=[16 / 255], noises=(), attacks=attacks)
    assert "a transferred attack is not stronger" in [check.name for check in report.checks if check.passed is False]


@pytest.mark.parametrize(
    ("columns", "passed"),
    [
        ([column("IFGSM", 0.1, 500), column("PGD", 0.1, 503)], True),  # 3 of 1000 apart: within two standard errors
        ([column("IFGSM", 0.1, 500), column("PGD", 0.1, 510)], False),
        ([column("IFGSM", 0.1, 500), column("PGD", 0.2, 510)], None),  # nothing at one radius
    ],
)
def test_the_margin_is_two_standard_errors(columns, passed):
    (check,) = (c for c in sanity_checks.check(columns) if c.name == FROM_RANDOM_START)
    assert check.passed is passed


def test_every_check_can_fail():
    columns = [
        column("uniform noise", 0.1, 500),
        column("FGSM", 0.1, 600),
        column("IFGSM", 0.1, 700),
        column("IFGSM", 0.2, 720),
        column("PGD", 0.1, 800, overshoot=1e-3),
        column("transfer", 0.1, 10),
        column("model", 0.0, 900, group="repeated logits"),
        column("PGD", 0.0, 999, group="zero radius"),
        column("model", 0.0, 900, group="gradient"),
        column("model", 0.0, 800, group="finite differences"),
        column("APGD", 0.1, 700, group="cross entropy"),
        column("APGD", 0.1, 600, group="logits ratio"),
        column("PGD", 0.1, 700, group="twice the steps"),
        column("PGD", 0.1, 700, group="shorter steps"),
        column("PGD", 0.1, 700, group="more restarts"),
        column("PGD", 0.5, 100, group="large radius"),
        column("Square", 0.1, 700, group="search without gradients"),
    ]
    assert [check.passed for check in sanity_checks.check(columns)] == [False] * 16
    assert [check.passed for check in sanity_checks.check([])] == [None] * 16


class OfItsBatch(nn.Module):
    """The classifier of images that are normalized by their batch."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(0.5 + 0.3 * (x - x.mean(0)) / (x.std(0, correction=0) + 0.1))


@pytest.mark.parametrize("build", [Noisy, OfItsBatch])
def test_a_model_that_is_no_function_of_the_image_fails(build):
    x, y = few_digits()
    report = evaluate(build().eval(), x, y, eps=[8 / 255], attacks={}, noises=())
    assert [check.name for check in report.checks if check.passed is False] == ["the model is a function of the image"]
    assert report.passed is False


def test_attacks_are_compared_with_the_next_that_was_measured(plain):
    some = [c for c in plain.columns if c.name != "IFGSM"]
    outcome = {check.name: check.passed for check in sanity_checks.check(some)}
    assert outcome["an iterated attack from a random start is at least as strong as a gradient step"] is True
    assert outcome[FROM_RANDOM_START] is None
    assert outcome["a gradient step is at least as strong as random noise"] is True


def test_recentered_pgd_may_go_twice_as_far():
    x, y = few_digits()
    report = evaluate(classifier(), x[:50], y[:50], eps=[0.05], noises=(), attacks={"authors": RecenteredPGD()})
    assert report.column("authors", 0.05).overshoot < 1e-6
    assert report.radii() == []
    with pytest.raises(KeyError, match=r"no attack within ε = 12\.75/255 in linf; the radii are \[\]"):
        report.robust_accuracy(0.05)
    assert "worst case" not in report.markdown()
    figure, ax = plt.subplots()
    plots.accuracy_by_radius(ax, report)
    assert [line.get_label() for line in ax.lines] == ["authors"]
    plt.close(figure)
    assert report.passed is None  # no attack within ε: nothing to probe


@dataclass(frozen=True)
class Far(Attack):
    """A user's attack that goes 50 times as far as ε, and so breaks everything."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=True, max_distance=50.0)

    def __call__(self, model, x, y, eps, generator, batch_size):
        return ifgsm(model, x, y, 50 * eps, alpha=0.05, steps=20, keep="first", batch_size=batch_size)


def test_an_attack_that_goes_further_than_eps_does_not_count_in_the_worst_case():
    x, y = few_digits()
    attacks = {"PGD": PGD(keep="first"), "far": Far()}
    report = evaluate(classifier(), x[:50], y[:50], eps=[4 / 255], noises=(), attacks=attacks)
    assert report.column("far", 4 / 255).accuracy == 0
    assert report.column("far", 4 / 255).overshoot < 1e-6
    assert report.robust_accuracy(4 / 255) == report.column("PGD", 4 / 255).accuracy > 0.5
    again = Report.from_json(report.to_json())
    assert again.robust_accuracy(4 / 255) == report.robust_accuracy(4 / 255)
    assert report.passed is True  # PGD is compared with attacks of its own ball only
    transferred = Transfer(classifier(), RecenteredPGD())
    assert transferred.traits == replace(RecenteredPGD.traits, transferred=True)
    assert not transferred.traits.within_eps


@dataclass(frozen=True)
class MyAttack(Attack):
    """A user's iterated attack, without the methods that only some checks need."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=True)
    alpha: float = 2 / 255
    steps: int = 20

    def __call__(self, model, x, y, eps, generator, batch_size):
        alpha = max(self.alpha, eps / 8)
        return ifgsm(model, x, y, eps, alpha=alpha, steps=self.steps, keep="first", batch_size=batch_size)


@dataclass(frozen=True)
class MyWholeAttack(MyAttack):
    """The same attack, which can also take twice the steps."""

    def with_twice_the_steps(self):
        return replace(self, steps=2 * self.steps)


@pytest.mark.parametrize(("attack", "passed"), [(MyAttack(), None), (MyWholeAttack(), True)])
def test_a_user_s_iterated_attack_is_checked_as_ours_are(attack, passed):
    x, y = few_digits()
    attacks = {"FGSM": FGSM(), "mine": attack}
    report = evaluate(classifier(), x, y, eps=[4 / 255, 8 / 255], noises=(), attacks=attacks)
    found = outcomes(report)
    for name in (
        "an iterated attack is at least as strong as a gradient step",
        "under an iterated attack accuracy falls as ε grows",
        "accuracy reaches zero at a large ε",
        "a search without gradients is not stronger",
    ):
        assert found[name] is True, report.markdown()
    assert found["twice the steps change less than 0.5 points"] is passed
    assert report.passed is passed
    assert ("A required sanity check was not made" in report.markdown()) is (passed is None)


def test_a_user_s_iterated_attack_can_fail():
    """The masked network that fails under our attacks fails under the user's too."""
    x, y = few_digits()
    attacks = {"mine": MyWholeAttack()}
    report = evaluate(Shattered().eval(), x, y, eps=[8 / 255, 32 / 255], noises=(), attacks=attacks)
    assert outcomes(report)["a search without gradients is not stronger"] is False
    assert report.passed is False


def test_without_an_iterated_attack_a_report_does_not_pass():
    x, y = (part[:50] for part in few_digits())
    report = evaluate(classifier(), x, y, eps=[4 / 255], noises=(), attacks={"FGSM": FGSM()})
    assert report.passed is None
    assert "sanity checks not checked" in repr(report)
    assert "| accuracy reaches zero at a large ε | **not checked** |" in report.markdown()
    assert "| a transferred attack is not stronger | not checked |" in report.markdown()
    assert evaluate(classifier(), x, y, attacks={}, noises=["shot_noise"], severities=[1]).passed is True


def test_the_outcome_has_three_values():
    assert all_passed([True, True]) is True
    assert all_passed([True, None]) is None
    assert all_passed([None, False]) is False
    clean = (column("clean", 0.0, 3, 4, "clean"),)
    for checks, passed in (
        ((*PASSED, SanityCheck("b", None, "", required=True)), None),
        ((*PASSED, SanityCheck("b", None, "", required=False)), True),
        ((*PASSED, SanityCheck("b", False, "", required=False)), False),
        ((SanityCheck("a", None, ""), SanityCheck("b", False, "")), False),
    ):
        assert Report(4, clean, checks, {}).passed is passed


def test_more_steps_are_compared_with_the_same_attack_only():
    """A second, weaker attack does not make the first one look unfinished."""
    columns = [
        column("PGD", 0.1, 500),
        replace(column("PGD", 0.1, 700), name="PGD-1"),
        column("PGD", 0.1, 500, group="twice the steps"),
    ]
    (steps,) = (c for c in sanity_checks.check(columns) if c.name == "twice the steps change less than 0.5 points")
    assert steps.passed is True


class EquilibriumClassifier(nn.Module):
    """The classifier of x + z / 4 with the equilibrium z = tanh(W z + x)."""

    share = 0.25

    def __init__(self, integrator):
        super().__init__()
        self.model = classifier()
        self.register_buffer("w", torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 16)
        self.block = EquilibriumBlock(lambda z, u: torch.tanh(z @ self.w.T + u), Constant(1.0), integrator=integrator)

    def forward(self, x):
        return self.model(x + self.block(x.flatten(1)).view_as(x) * self.share)


class ScaledEquilibrium(EquilibriumClassifier):
    """As above, with 4 z, and W eight times as large, which no fixed-point step contracts."""

    share = 4.0

    def __init__(self, integrator):
        super().__init__(integrator)
        self.w.mul_(8)


@pytest.mark.slow  # every attack and every probe runs the search
@pytest.mark.filterwarnings("ignore::dampode.integrators.UnconvergedWarning")
@pytest.mark.filterwarnings("ignore::dampode.integrators.InexactGradientWarning")
@pytest.mark.parametrize(
    ("make", "hidden"),
    [
        (lambda: EquilibriumClassifier(SteadyState(rtol=1e-5)), False),
        (lambda: ScaledEquilibrium(SteadyState(max_calls=4, strict=False)), True),
    ],
    ids=["converged", "stopped"],
)
def test_an_equilibrium_whose_tolerance_hides_its_gradient_is_caught(make, hidden):
    """The attack on the intermediate states is a transfer from the unrolled network."""
    x, y = (part[:60] for part in few_digits())
    model = make().eval()
    attacks = {"PGD": PGD(), "PGD on intermediate states": Transfer(unrolled(model, 4), PGD())}
    report = evaluate(model, x, y, eps=[16 / 255], noises=(), attacks=attacks)
    failed = {check.name for check in report.checks if check.passed is False}
    assert (AGREES in failed) is hidden, report.markdown()
    assert outcomes(report)["a transferred attack is not stronger"] is not None
    if not hidden:
        assert report.passed is True, report.markdown()
