"""Stability functions, regions, and the largest stable step."""

import cmath
import math

import pytest
import torch

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.integrators import (
    ETD2RK,
    ExponentialEuler,
    Integrator,
    Krogstad4,
    LinearizedEuler,
    SteadyState,
    TorchDiffEq,
)
from dampode.stability import (
    eigenvalues,
    largest_stable_step,
    stability_function,
    stability_region,
)
from dampode.weighting import one_plus

Z = torch.tensor([[0.0], [0.4], [3.0]], dtype=torch.float64)
MU = torch.tensor([0.0, 0.9, -0.3 + 1j, 2j], dtype=torch.complex128)


def test_amplification_of_the_papers_steps():
    torch.testing.assert_close(stability_function(LinearizedEuler(), Z, MU), 1 - Z + Z * MU)
    exact = torch.exp(-Z) + (1 - torch.exp(-Z)) * MU
    torch.testing.assert_close(stability_function(ExponentialEuler(), Z, MU), exact)


def test_amplification_of_torchdiffeqs_methods():
    w = Z * (MU - 1)
    torch.testing.assert_close(stability_function(TorchDiffEq("euler"), Z, MU), 1 + w)
    torch.testing.assert_close(stability_function(TorchDiffEq("rk4"), Z, MU), 1 + w + w**2 / 2 + w**3 / 6 + w**4 / 24)
    adaptive = stability_function(TorchDiffEq("dopri5", rtol=1e-8, atol=1e-10), Z, MU)
    torch.testing.assert_close(adaptive, torch.exp(w), rtol=0, atol=1e-5)


def concrete(base):
    return [kind for child in base.__subclasses__() for kind in [child, *concrete(child)]]


STEPPING = [
    kind
    for kind in concrete(Integrator)
    if not getattr(kind, "__abstractmethods__", ()) and kind is not SteadyState  # it has no state at a finite time
]


@pytest.mark.parametrize("kind", STEPPING)
def test_every_integrator_has_a_stability_function_near_the_exact_one(kind):
    """At small z every consistent step is close to e^{z(μ − 1)}, whatever the class; new classes are found here."""
    z, mu = 0.02, 0.3 + 0.8j
    got = stability_function(kind(), z, mu)
    assert got.dtype == torch.complex128
    assert abs(got.item() - cmath.exp(z * (mu - 1))) < 1e-3


def test_the_region_as_data():
    region = stability_region(LinearizedEuler(), 0.5, points=81)
    assert region.amplification.shape == region.stable.shape == (81, 81)
    w = region.re + 1j * region.im[:, None]
    clear = ((w + 0.5).abs() - 1).abs() > 1e-6
    assert torch.equal(region.stable[clear], ((w + 0.5).abs() < 1)[clear])  # the unit disc around z − 1
    assert stability_region(ExponentialEuler(), 2.0, points=41).stable.sum() > 0


def test_the_largest_stable_step():
    assert largest_stable_step(LinearizedEuler(), -1.5, 0.5) == pytest.approx(1.0, rel=1e-8)
    assert largest_stable_step(LinearizedEuler(), 0.5, 2.0, one_plus) == pytest.approx(4.0, rel=1e-8)
    assert largest_stable_step(TorchDiffEq("rk4"), -1.0, 0.0) == pytest.approx(2.785293563405, rel=1e-6)
    assert largest_stable_step(ExponentialEuler(), torch.tensor([0.9, -0.8 + 0.1j]), 1.0) == math.inf
    assert largest_stable_step(LinearizedEuler(), torch.tensor([-1.0, 0.6]), 0.5) == 0.0  # the equation is unstable
    half = largest_stable_step(LinearizedEuler(steps=2), -1.5, 0.5)
    assert half == pytest.approx(2.0, rel=1e-8)


@pytest.mark.parametrize(
    ("integrator", "expected"),
    [
        (LinearizedEuler(), 0.0),  # |R|² = 1 + h²
        (ExponentialEuler(), 0.0),  # the same
        (ETD2RK(), 0.0),  # 1 + h⁴/4
        (TorchDiffEq("heun3"), math.sqrt(3)),  # 1 − h⁴/12 + h⁶/36
        (TorchDiffEq("rk4"), math.sqrt(8)),  # 1 − h⁶/72 + h⁸/576
    ],
    ids=repr,
)
def test_on_the_axis_the_largest_step_is_the_methods_own_and_not_a_margins(integrator, expected):
    for scale in (1.0, 1e8):
        for nu in (1j, torch.tensor([1j, -1j, -0.5, 0])):
            assert largest_stable_step(integrator, scale * nu, 0.0) == pytest.approx(expected / scale, rel=1e-6)


def test_an_axis_that_a_method_keeps_and_one_that_weak_damping_leaves():
    assert largest_stable_step(ExponentialEuler(), 1.0, 1.0, h_max=10.0) == math.inf  # R = 1
    h = largest_stable_step(LinearizedEuler(), 1j, 1e-3)  # |R|² = (1 − λh)² + h²
    assert h == pytest.approx(2e-3 / (1 + 1e-6), rel=1e-4)
    assert largest_stable_step(LinearizedEuler(), torch.tensor([-1e8, 1j]), 0.0) == 0.0


def test_the_largest_step_holds_on_a_network_field():
    """Beyond it a linear field's trajectory grows; below it it decays."""
    a = -torch.eye(6).double() + torch.randn(6, 6, dtype=torch.float64) / 4
    func = DampedODEFunc(lambda x: x @ a.T, Constant(0.7))
    nu = eigenvalues(lambda x: x @ a.T, torch.zeros(1, 6).double(), k=None)
    h = largest_stable_step(LinearizedEuler(), nu, 0.7)
    x = torch.randn(1, 6, dtype=torch.float64)
    assert LinearizedEuler(400)(func, x, 0.0, 400 * 0.97 * h).norm() < 0.1 * x.norm()
    assert LinearizedEuler(400)(func, x, 0.0, 400 * 1.03 * h).norm() > 10 * x.norm()


def test_etd2rk_never_amplifies_an_error_where_rho_lip_f_is_at_most_lambda():
    """On f = μx, |μ| = 1, at any hλ; Krogstad4, of higher order, amplifies."""
    z = torch.logspace(-3, 5, 81, dtype=torch.float64)[:, None]
    mu = torch.polar(torch.ones(25, dtype=torch.float64), torch.linspace(0, torch.pi, 25, dtype=torch.float64))
    grown = {i: stability_function(i, z, mu).abs().max().item() for i in (ExponentialEuler(), ETD2RK(), Krogstad4())}
    assert max(grown[ExponentialEuler()], grown[ETD2RK()]) <= 1 + 1e-12
    assert grown[Krogstad4()] > 2


def test_regions_bad_input():
    with pytest.raises(ValueError, match="λ must be at least 0"):
        stability_function(LinearizedEuler(), -1.0, 0.5)
    with pytest.raises(TypeError, match="integrator must be of type Integrator"):
        stability_function("euler", 1.0, 0.5)
    for axis in ((1.0, -1.0), (-math.inf, 0.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match="re must be finite and increase"):
            stability_region(LinearizedEuler(), 1.0, re=axis)


@pytest.mark.parametrize(
    ("nu", "h_max", "words"),
    [
        (-1.0, 1e-7, "h_max must be above 1e-06"),
        (math.nan, 1.0, "nu must be finite"),
        (torch.ones(0), 1.0, "not empty"),
    ],
)
def test_no_largest_step_is_made_up(nu, h_max, words):
    with pytest.raises(ValueError, match=words):
        largest_stable_step(LinearizedEuler(), nu, 0.5, h_max=h_max)
