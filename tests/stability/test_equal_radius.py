"""Training contractive networks for the same radius: with relu, every constant λ gives the radii of λ = 0."""

import math

import torch
from torch import nn

from benchmarks.certified_accuracy import loss_of
from dampode import models
from dampode.stability import certify


def trained(lam, equal, lr=0.02, steps=8):
    torch.manual_seed(0)
    options = {"width": 8, "blocks": 2, "dense": 1, "features": 16, "size": (8, 8), "in_channels": 1}
    model = models.contractive_resnet(4, lam=lam, **options).double()
    loss, x, y = loss_of(model, lam, equal), torch.rand(32, 1, 8, 8, dtype=torch.float64), torch.arange(32) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return certify(model.eval(), x, y), model


def test_scaled_rates_of_biases_give_the_radii_of_no_damping():
    radii, plain = trained(0.0, "radius")
    assert bool((radii > 0).any())
    for lam in (0.3, 1.0):
        others, model = trained(lam, "radius")
        torch.testing.assert_close(others, radii, rtol=1e-6, atol=1e-9)
        assert isinstance(model[-1], nn.Module)
        factor = math.exp(-3 * lam)  # three flows
        torch.testing.assert_close(model[-1].bias, factor * plain[-1].bias, rtol=1e-6, atol=1e-9)


def test_without_them_damped_networks_are_trained_otherwise():
    radii, _ = trained(0.0, "margin")
    others, _ = trained(1.0, "margin")
    assert (others - radii).abs().max() > 0.01
