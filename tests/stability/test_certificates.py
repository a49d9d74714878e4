"""Certified radii: no attack breaks them, and a change of scale does not change them."""

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

from dampode import DampedBlock, EquilibriumBlock, data, models
from dampode.contractive import BoundedLinear, ConvolutionalPotential, DensePotential
from dampode.damping import Constant, Gated
from dampode.data import Augmentation
from dampode.integrators import AdaptiveExponential, ExponentialEuler
from dampode.robustness import PGD
from dampode.stability import certify, lipschitz
from dampode.training import MarginLoss, Recipe, fit


@cache
def trained(lam=0.1):
    """A small contractive network, trained on digits with a margin."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.contractive_resnet(
            10, width=8, blocks=2, dense=1, features=64, size=(8, 8), in_channels=1, lam=lam
        )
    recipe = Recipe(epochs=8, batch_size=64, lr=0.02, weight_decay=0.0, augmentation=Augmentation(0, flip=False))
    fit(model, data.load("digits"), recipe, loss=MarginLoss(margin=0.1, temperature=0.1))
    return model.eval()


def few():
    images = data.load("digits")
    return data.pixels(images.x_test)[:100], images.y_test[:100]


@pytest.mark.slow
def test_no_attack_breaks_a_certificate():
    """PGD-100 with restarts at the images' certified radii flips none; at eight times the radii it flips some."""
    model, (x, y) = trained(), few()
    radii = certify(model, x, y)
    assert (radii > 0.1).double().mean() > 0.4
    order, flips = radii.argsort(), {1.0: 0, 8.0: 0}
    for chosen in order[radii[order] > 0].split(25):
        eps = radii[chosen].min().item()  # images with similar radii, at the smallest one
        for factor, steps, restarts in ((1.0, 100, 3), (8.0, 20, 1)):
            attack = PGD(steps=steps, restarts=restarts, norm="l2", keep="first")
            moved = attack(model, x[chosen], y[chosen], factor * eps, torch.Generator().manual_seed(0), 100)
            flips[factor] += int((model(moved).argmax(1) != y[chosen]).sum())
    assert flips[1.0] == 0
    assert flips[8.0] > 0


def test_a_wrong_image_has_radius_zero():
    model, (x, _) = trained(), few()
    wrong = (model(x).argmax(1) + 1) % 10
    assert torch.equal(certify(model, x, wrong), torch.zeros(100, dtype=torch.float64))


def test_the_bound_is_above_the_largest_local_slope():
    model, (x, _) = trained(), few()
    bound = math.prod(lipschitz(layer) for layer in model)
    features = lambda v: model(v[None])[0]  # noqa: E731
    slopes = [
        torch.linalg.matrix_norm(torch.autograd.functional.jacobian(features, v).flatten(1), 2).item() for v in x[:8]
    ]
    assert max(slopes) <= bound
    assert bound < 50 * max(slopes)


def test_scaling_changes_no_radius():
    """A factor in the features multiplies margin and constant: the same radii."""
    model, (x, y) = trained(), few()
    scaled = copy.deepcopy(model)
    first = nn.Linear(64, 64, bias=False)
    nn.init.eye_(first.weight).data.mul_(100)
    grown = nn.Sequential(*scaled[:-1], first, scaled[-1])
    grown[-1].bias.data.mul_(100)
    torch.testing.assert_close(certify(grown, x, y), certify(model, x, y), rtol=1e-6, atol=1e-7)


def test_constant_damping_with_relu_is_a_scaled_undamped_network():
    """x ← e^{-λ} x − c Wᵀ relu(W x + b) with ‖W‖² = 2 e^{-λ} / c is e^{-λ} times the undamped step of the same V, whose
    biases are b times √(c e^{λ}): relu is homogeneous. Features, and so radii, of a whole stack agree up to scale."""
    x = torch.randn(5, 6, dtype=torch.float64)
    lam = 0.4
    damped, plain, state, free, grown = [], [], x, x, 1.0
    for _ in range(3):
        f = DensePotential(6, norm=models.contractive_norm(lam)).double()
        nn.init.normal_(f.bias)
        twin = DensePotential(6, norm=models.contractive_norm(0.0)).double()
        twin.weight.data.copy_(f.weight)
        gain = (1 - math.exp(-lam)) / lam
        twin.bias.data.copy_(f.bias * math.sqrt(gain * math.exp(lam)) / grown)
        damped.append(DampedBlock(f, Constant(lam), integrator=ExponentialEuler()))
        plain.append(DampedBlock(twin, Constant(0.0), integrator=ExponentialEuler()))
        state, free, grown = damped[-1](state), plain[-1](free), grown * math.exp(-lam)
        torch.testing.assert_close(state, grown * free)
    assert math.prod(map(lipschitz, damped)) == pytest.approx(grown * math.prod(map(lipschitz, plain)), rel=1e-6)


def test_an_equilibrium_block_is_certified():
    torch.manual_seed(1)
    head = [nn.Flatten(), BoundedLinear(64, 16)]
    model = nn.Sequential(*head, EquilibriumBlock(DensePotential(16), Constant(0.5)), BoundedLinear(16, 10)).double()
    x, _ = few()
    radii = certify(model, x, model(x.double()).argmax(1))
    assert (radii > 0).all()


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        (nn.Conv2d(1, 1, 3), TypeError, "known Lipschitz constant, got Conv2d"),
        (nn.AvgPool2d(2, stride=1), ValueError, "set stride=kernel_size"),
        (DampedBlock(nn.Linear(3, 3), Constant(1.0)), TypeError, "dampode.contractive"),
        (DampedBlock(DensePotential(3), Gated(3)), TypeError, "λ must be a number"),
        (DampedBlock(DensePotential(3), Constant(torch.ones(3))), ValueError, "one number"),
        (
            DampedBlock(DensePotential(3), Constant(1.0), integrator=AdaptiveExponential()),
            ValueError,
            "ExponentialEuler",
        ),
        (EquilibriumBlock(DensePotential(3), Constant(0.0)), ValueError, "λ > 0"),
    ],
)
def test_what_has_no_known_constant_is_refused(layer, error, words):
    with pytest.raises(error, match=words):
        lipschitz(layer)
    with pytest.raises(error, match=words):
        certify(nn.Sequential(layer, nn.Linear(3, 2)), torch.zeros(1, 3), torch.tensor([0]))


def test_sizes_of_the_network():
    model = models.contractive_resnet(lam=0.3)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert models.contractive_norm(0.0) == pytest.approx(math.sqrt(2))
    flows = [layer for layer in model if isinstance(layer, DampedBlock)]
    assert len(flows) == 8
    assert max(map(lipschitz, flows)) <= math.exp(-0.3) * 1.02
    assert isinstance(flows[0].func.f.f, ConvolutionalPotential)
    with pytest.raises(ValueError, match="multiples of 4"):
        models.contractive_resnet(size=(6, 6))
    with pytest.raises(ValueError, match="width must be at least"):
        models.contractive_resnet(width=8)
