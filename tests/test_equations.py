"""The paper's propositions and limits, held numerically against independent solutions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad_vec
from torch import nn

from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant, Gated, Learned
from dampode.integrators import ExponentialEuler, LinearizedEuler, TorchDiffEq
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced, authors_in_resnet_layer, authors_lambda_in_resnet_layer, dop853, final_state


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("lam", [0.0, 0.7, 20.0])
def test_eqs_5_to_7_variation_of_constants(lam, rho):
    """On a solved trajectory, Eq. 5 over [0, T], Eq. 6, and Eq. 7 over one interval inside it."""
    f, end = Forced(3), 1.5
    func = DampedODEFunc(f, Constant(lam), rho)
    x0 = torch.randn(1, 3, dtype=torch.float64)
    path = dop853(func, x0, 0.0, end).sol

    def forcing(t, shift):
        with torch.no_grad():
            return rho(lam) * np.exp(lam * (t - shift)) * f(t, torch.from_numpy(path(t))[None]).numpy()[0]

    def integral(a, b, shift):
        return quad_vec(lambda t: forcing(t, shift), a, b, epsabs=1e-12, epsrel=1e-12)[0]

    np.testing.assert_allclose(path(end), np.exp(-lam * end) * path(0.0) + integral(0, end, end), rtol=1e-8, atol=1e-10)
    left = np.exp(lam * end) * path(end) - path(0.0)
    np.testing.assert_allclose(left, integral(0, end, 0.0), rtol=1e-8, atol=1e-8)
    a, b = 0.4, 0.9
    eq7 = np.exp(-lam * (b - a)) * path(a) + integral(a, b, b)
    np.testing.assert_allclose(path(b), eq7, rtol=1e-8, atol=1e-10)


def test_a_per_channel_stiff_problem_agrees_with_dop853():
    lam = torch.tensor([0.0, 1.0, 30.0, 300.0], dtype=torch.float64)
    func, x = DampedODEFunc(Forced(4), Constant(lam)), torch.randn(2, 4, dtype=torch.float64)
    exact = final_state(func, x, 0.0, 1.0)
    tight = TorchDiffEq("dopri5", rtol=1e-9, atol=1e-11)(func, x, 0.0, 1.0)
    torch.testing.assert_close(tight, exact, rtol=1e-8, atol=1e-9)
    rough = ExponentialEuler(steps=400)(func, x, 0.0, 1.0)
    torch.testing.assert_close(rough, exact, rtol=5e-3, atol=5e-3)


@settings(deadline=None, max_examples=40)
@given(
    lam=st.floats(0, 1e6),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    h=st.floats(1e-3, 10),
    rho=st.sampled_from([unit, one_plus]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_step_is_a_convex_combination(lam, shape, h, rho, dtype):
    """x1 = e^{−λh} x + (1 − e^{−λh}) ρ f / λ: between the smallest and largest of x and ρ f / λ, elementwise."""
    x = torch.randn(shape, dtype=dtype)
    x1 = DampedBlock(torch.tanh, Constant(lam), rho, ExponentialEuler(), (0.0, h))(x)
    assert (x1.shape, x1.dtype) == (x.shape, dtype)
    if lam * h < 1e-3:
        torch.testing.assert_close(x1, x + h * torch.tanh(x), rtol=2e-3, atol=2e-3 * (1 + h))
        return
    target = rho(lam) * torch.tanh(x) / lam
    slack = 1e-5 * (1 + target.abs() + x.abs())
    assert (x1 >= torch.minimum(x, target) - slack).all()
    assert (x1 <= torch.maximum(x, target) + slack).all()


@settings(deadline=None, max_examples=20)
@given(lam=st.floats(0, 1e6), width=st.integers(1, 5), rho=st.sampled_from([unit, one_plus]))
def test_exponential_steps_stay_bounded_for_any_damping(lam, width, rho):
    """|f| <= 1 gives |x1| <= max(|x0|, ρ/λ, 1): damping never makes a step explode."""
    block = DampedBlock(torch.tanh, Constant(lam), rho, ExponentialEuler(steps=3))
    x = torch.randn(2, width)
    bound = max(x.abs().max().item(), 1.0) + 3 * float(rho(lam)) / max(lam, 1.0)
    assert torch.isfinite(block(x)).all()
    assert block(x).abs().max() <= bound


# the special cases of design: by composition only, to the last bit where it can be


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("integrator", [LinearizedEuler(), ExponentialEuler()])
def test_resnet_is_bit_equal(integrator, rho, dtype):
    f = conv(dtype)
    x = torch.randn(2, 3, 5, 5, dtype=dtype)
    assert torch.equal(DampedBlock(f, Constant(0.0), rho, integrator)(x), x + f(x))


def test_cnn_is_bit_equal(dtype):
    f = conv(dtype)
    x = torch.randn(2, 3, 5, 5, dtype=dtype)
    assert torch.equal(DampedBlock(f, Constant(1.0))(x), f(x))


def test_cnn_as_the_limit_of_eq8(dtype):
    f = conv(dtype)
    x = torch.randn(2, 3, 5, 5, dtype=dtype)
    limit = DampedBlock(f, Constant(1e8), one_plus, ExponentialEuler())(x)
    torch.testing.assert_close(limit, f(x), rtol=1e-6, atol=1e-6)
    assert DampedBlock(f, Constant(1e8), unit, ExponentialEuler())(x).abs().max() < 1e-6


def test_in_resnet_layer_is_the_authors():
    f, x, k = conv(), torch.randn(2, 3, 5, 5), torch.tensor(0.78)
    block = DampedBlock(f, Learned(0.2, 0.25, anchor=1.0))
    with torch.no_grad():
        block.func.damping.raw.copy_(-k)
    torch.testing.assert_close(block(x), authors_in_resnet_layer(x, k, f), rtol=0, atol=1e-6)


def test_lambda_in_resnet_layer_is_the_authors():
    f, x, lam = conv(), torch.randn(2, 3, 5, 5), torch.tensor(0.22)
    block = DampedBlock(f, Learned(0.2, 0.25), one_plus)
    with torch.no_grad():
        block.func.damping.raw.copy_(lam)
    torch.testing.assert_close(block(x), authors_lambda_in_resnet_layer(x, lam, f), rtol=0, atol=1e-6)


@pytest.mark.parametrize("act", [torch.relu, torch.sigmoid])
def test_eq21_variants(act):
    f, x = conv(), torch.randn(2, 3, 5, 5)
    learned, gated = Learned(0.2, 0.25, act=act), Gated(3, act=act)
    torch.testing.assert_close(DampedBlock(f, learned)(x), (1 - act(learned.raw)) * x + f(x))
    w, b = gated.gate.weight[:, :, None, None], gated.gate.bias
    torch.testing.assert_close(DampedBlock(f, gated)(x), (1 - act(nn.functional.conv2d(x, w, b))) * x + f(x))


def conv(dtype=torch.float32):
    return nn.Conv2d(3, 3, 3, padding=1).to(dtype)
