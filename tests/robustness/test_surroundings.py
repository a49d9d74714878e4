"""A measurement is the same whatever surrounds it: autocast, grad modes, defaults of torch, random state."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from dampode import models
from dampode.integrators import ExponentialEuler
from dampode.robustness import FGSM, PGD, Ensemble, Square, accuracy, evaluate, fgsm, landscape, pgd
from dampode.robustness.loss_landscape import orthogonal_direction
from dampode.stability import (
    eigenvalues,
    error_propagation,
    find_equilibrium,
    jacobian,
    largest_stable_step,
    layer_exponents,
    layer_report,
    log_norm,
    lyapunov_exponents,
)
from tests.helpers.trained import classifier, few_digits


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def another_seed():
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "seed": another_seed,
}


class WithConstants(nn.Module):
    """The classifier, with a constant of the default dtype in its forward pass."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(x) + torch.full((10,), 0.1, device=x.device)


MODEL = WithConstants().eval()
MATRIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)) / 3


def measured():
    x, y = (part[:60] for part in few_digits())
    model = MODEL
    attacks = {"FGSM": FGSM(), "PGD": PGD(steps=3), "Square": Square(queries=10)}
    report = evaluate(model, x, y, eps=[8 / 255], noises=["shot_noise"], severities=[5], attacks=attacks)
    plane = landscape(model, x[:2], y[:2], along=(0.0, 4.0), across=(0.0, 4.0))
    start = torch.Generator("cpu").manual_seed(1)
    return (
        report.to_json(),
        plane.to_json(),
        fgsm(model, x, y, 0.1).tolist(),
        pgd(model, x, y, 0.1, steps=2, generator=start).tolist(),
        accuracy(Ensemble([model, model]), x, y),
        orthogonal_direction(torch.ones(2, 1, 3, 3, device="cpu"), 3).tolist(),
    )


def of_a_field():
    matrix, start = MATRIX, torch.full((1, 6), 0.5, dtype=torch.float32, device="cpu")

    def field(x):
        return torch.tanh(x @ matrix.T) - 1.5 * x

    return (
        jacobian(field, start).tolist(),
        eigenvalues(field, start, k=None).tolist(),
        log_norm(field, start),
        find_equilibrium(field, start).x.tolist(),
        lyapunov_exponents(field, start, 1.0, k=2, dt=0.1).tolist(),
    )


IMAGES = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
NETWORK = models.in_resnet(14, 10, width=2, in_channels=1, mean=(0.5,), std=(0.3,)).eval()


def of_a_network():
    delta = torch.full_like(IMAGES, 0.01)
    return (
        layer_report(NETWORK, IMAGES, draws=2).to_json(),
        error_propagation(NETWORK, IMAGES, delta).after.tolist(),
        layer_exponents(NETWORK, IMAGES, 2).through.tolist(),
        largest_stable_step(ExponentialEuler(), -2.0, 1.0),
    )


@pytest.mark.parametrize("measure", [measured, of_a_field, of_a_network])
def test_surroundings_change_nothing(measure):
    with nullcontext():
        expected = measure()
    for name, surrounding in SURROUNDINGS.items():
        with surrounding():
            assert measure() == expected, name
