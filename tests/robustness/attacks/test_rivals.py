"""Attacks against foolbox's, which is independent code, on a trained network; and our networks under foolbox."""

import eagerpy as ep
import foolbox
import pytest
import torch

from dampode import models
from dampode.robustness import fgsm, ifgsm, pgd, recentered_pgd
from tests.helpers.trained import classifier, digits

EPS, ALPHA, STEPS = 16 / 255, 3 / 255, 10


@pytest.fixture(scope="module")
def problem():
    """In float64: in float32 a gradient near zero takes its sign from rounding, and the iterations part there."""
    x, y = digits()
    return classifier().double(), x[:100].double(), y[:100]


def attack(theirs, model, x, y):
    return theirs.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilon=EPS)


class FromStart(foolbox.attacks.LinfProjectedGradientDescentAttack):
    def __init__(self, start):
        super().__init__(abs_stepsize=ALPHA, steps=STEPS, random_start=True)
        self.start = start

    def get_random_start(self, x0, epsilon):
        return ep.astensor(self.start)


def test_fgsm_is_foolbox_s(problem):
    model, x, y = problem
    theirs = attack(foolbox.attacks.LinfFastGradientAttack(), model, x, y)
    assert (fgsm(model, x, y, EPS) - theirs).abs().max() <= 1e-6


def test_ifgsm_is_foolbox_s_bim(problem):
    model, x, y = problem
    theirs = attack(
        foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=ALPHA, steps=STEPS, random_start=False), model, x, y
    )
    ours = ifgsm(model, x, y, EPS, alpha=ALPHA, steps=STEPS, keep="last")
    assert (ours - theirs).abs().max() <= 1e-6
    assert (ours - fgsm(model, x, y, EPS)).abs().max() > EPS / 2  # and they are not all at the corner


def test_pgd_is_foolbox_s_from_the_same_start(problem):
    model, x, y = problem
    delta = EPS * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype) - 1)
    theirs = attack(FromStart(x + delta), model, x, y)
    generator = torch.Generator().manual_seed(5)
    ours = pgd(model, x, y, EPS, alpha=ALPHA, steps=STEPS, keep="last", generator=generator)
    assert (ours - theirs).abs().max() <= 1e-6
    assert (ours - ifgsm(model, x, y, EPS, alpha=ALPHA, steps=STEPS, keep="last")).abs().max() > 1e-3


def test_recentered_pgd_is_the_authors_code(problem):
    """Written out from their test_pgd.py, in pixels."""
    model, x, y = problem
    delta = EPS * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype) - 1)
    center = inputs = x + delta
    for _ in range(STEPS):
        leaf = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.nn.CrossEntropyLoss()(model(leaf), y), leaf)
        inputs = inputs + ALPHA * gradient.sign()
        inputs = torch.where(inputs > center + EPS, center + EPS, inputs)
        inputs = torch.where(inputs < center - EPS, center - EPS, inputs).clamp(min=0, max=1)
    generator = torch.Generator().manual_seed(5)
    ours = recentered_pgd(model, x, y, EPS, alpha=ALPHA, steps=STEPS, generator=generator)
    assert (ours - inputs).abs().max() <= 1e-12
    assert EPS * 1.5 < (ours - x).abs().max() <= 2 * EPS + 1e-12


@pytest.mark.parametrize("build", [models.in_resnet, models.lambda_in_resnet, models.in_resnet_gating])
def test_our_networks_run_under_foolbox(build):
    model = build(14, width=8).eval()
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    theirs = attack(foolbox.attacks.LinfFastGradientAttack(), model, x, y)
    assert ((fgsm(model, x, y, EPS) - theirs).abs() > 1e-6).double().mean() < 1e-3  # float32: a sign may differ
