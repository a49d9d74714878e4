import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from dampode.functional import damped_rhs, exponential_step, linearized_step, phi, phis
from tests.helpers.oracles import phi_derivative_mp, phi_mp

POINTS = [0.0, *(s * m for m in (1e-300, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.999999, 1.0, 1.5, 3.0, 30.0) for s in (-1, 1))]
POINTS += [-1e2, -7.1e2, -1e3, -1e4, -1e5, -1e6]


@pytest.mark.parametrize("k", range(4))
def test_phi_against_high_precision(k):
    z = torch.tensor(POINTS, dtype=torch.float64)
    expected = np.array([float(phi_mp(k, p)) for p in POINTS])
    np.testing.assert_allclose(phi(k, z).numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(phi(k, z.float()).numpy(), expected.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("k", range(4))
def test_phi_derivative_against_high_precision(k):
    z = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(phi(k, z).sum(), z)
    expected = np.array([float(phi_derivative_mp(k, p)) for p in POINTS])
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10)

    z32 = torch.tensor(POINTS, requires_grad=True)
    (gradient,) = torch.autograd.grad(phi(k, z32).sum(), z32)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("k", range(4))
def test_phi_differentiates_twice_in_forward_mode_and_under_vmap(k):
    z = torch.tensor([-40.0, -1.0001, -0.9999, -1e-4, 0.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: phi(k, v), z, check_forward_ad=True)
    assert gradgradcheck(lambda v: phi(k, v), z)
    torch.testing.assert_close(torch.vmap(lambda v: phi(k, v))(z), phi(k, z))
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(lambda v: phi(k, v)))(z), _derivative(k, z))


def _derivative(k, z):
    return torch.autograd.grad(phi(k, z).sum(), z)[0]


@given(st.floats(-1e6, 30), st.integers(0, 2))
def test_phi_recurrence(z, k):
    w = torch.tensor(z, dtype=torch.float64)
    left = w * phi(k + 1, w) + 1 / math.factorial(k)
    torch.testing.assert_close(left, phi(k, w), rtol=1e-13, atol=2e-15)  # the sum cancels where φ_k is tiny


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_phi_keeps_low_precision_types(low):
    z = torch.tensor([-100.0, -1.0, 0.0], dtype=low)
    assert phi(2, z).dtype == low
    torch.testing.assert_close(phi(2, z), phi(2, z.float()).to(low))


def test_phi_refuses_in_words():
    with pytest.raises(ValueError, match="k = 0, 1, 2, 3, got 4"):
        phi(4, torch.zeros(1))
    with pytest.raises(TypeError, match=r"floating tensor, got torch\.int64"):
        phi(1, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TypeError, match="floating tensor, got float"):
        phi(1, 0.5)


@settings(deadline=None)
@given(
    lam=st.floats(0, 1e7),
    h=st.floats(1e-3, 10),
    x=st.floats(-5, 5),
    f=st.floats(-5, 5),
    rho=st.sampled_from([lambda v: 1.0, lambda v: 1 + v]),
)
def test_eq8_is_exact_for_constant_f(lam, h, x, f, rho):
    """x(h) = e^{−λh} x + ρ f (1 − e^{−λh}) / λ, evaluated with mpmath."""
    step = exponential_step(torch.tensor([x], dtype=torch.float64), lam, rho(lam), torch.tensor([f]).double(), h)
    fp = float(torch.tensor(f))  # f went through float32
    exact = math.exp(-lam * h) * x + h * float(phi_mp(1, -lam * h)) * rho(lam) * fp
    scale = abs(math.exp(-lam * h) * x) + abs(h * float(phi_mp(1, -lam * h)) * rho(lam) * fp)
    assert abs(step.item() - exact) <= 1e-12 * scale + 1e-300


def test_eq10_both_limits(dtype):
    x, f = torch.randn(3, 4, dtype=dtype), torch.randn(3, 4, dtype=dtype)
    assert torch.equal(exponential_step(x, 0.0, 1.0, f, 1.0), x + f)
    tiny = exponential_step(x, 1e-9, 1 + 1e-9, f, 0.5)
    torch.testing.assert_close(tiny, x + 0.5 * f, rtol=1e-6, atol=1e-6)
    for h in (0.25, 1.0, 2.0):  # the limit is f, not h f as the print has it
        torch.testing.assert_close(exponential_step(x, 1e8, 1 + 1e8, f, h), f, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(exponential_step(x, 1e8, 1.0, f, h), torch.zeros_like(f), rtol=0, atol=1e-7)


def test_eq12_and_eq14(dtype):
    x, f, lam = (torch.randn(2, 3, dtype=dtype) for _ in range(3))
    torch.testing.assert_close(linearized_step(x, lam, 1.0, f, 0.3), (1 - 0.3 * lam) * x + 0.3 * f)
    torch.testing.assert_close(linearized_step(x, lam, 1 + lam, f, 1.0), (1 - lam) * x + (1 + lam) * f)
    torch.testing.assert_close(damped_rhs(x, lam, 1 + lam, f), -lam * x + (1 + lam) * f)


def test_linearized_is_the_first_order_of_exponential():
    x, f, lam = (torch.rand(4, dtype=torch.float64) for _ in range(3))
    gaps = [(exponential_step(x, lam, 1.0, f, h) - linearized_step(x, lam, 1.0, f, h)).norm() for h in (1e-2, 1e-3)]
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


@settings(deadline=None, max_examples=25)
@given(lam=st.floats(0, 1e6), h=st.floats(1e-3, 2), kind=st.sampled_from([(), (3, 1, 1), (2, 1, 1, 1), (2, 3, 4, 4)]))
def test_damping_broadcasts_like_a_full_tensor(lam, h, kind):
    x, f = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    values = lam * torch.rand(kind)
    full = values.expand_as(x).contiguous()
    for step in (exponential_step, linearized_step):
        torch.testing.assert_close(step(x, values, 1.0, f, h), step(x, full, 1.0, f, h))


@pytest.mark.parametrize("step", [exponential_step, linearized_step])
@pytest.mark.parametrize("weight", [lambda v: 1.0, lambda v: 1 + v])
def test_steps_gradcheck(step, weight):
    x, f = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    lam = torch.tensor([0.0, 0.4, 50.0], dtype=torch.float64, requires_grad=True)
    h = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *a: step(a[0], a[1], weight(a[1]), a[2], a[3]), (x, lam, f, h), check_forward_ad=True)


def test_one_full_graph():
    compiled = torch.compile(lambda z: phi(3, z), fullgraph=True, backend="aot_eager")
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(compiled(z), phi(3, z))


def test_phis_are_phi_for_every_k(dtype):
    z = torch.tensor([0.0, -1e-12, -0.3, -1.0, -7.0, -1e6, 0.4, 30.0], dtype=dtype)
    for k, value in enumerate(phis(z)):
        assert torch.equal(value, phi(k, z))
        assert value.dtype == dtype
    expected = np.array([float(phi_mp(4, p)) for p in z.tolist()])
    np.testing.assert_allclose(phis(z, 4)[4].double().numpy(), expected, rtol=1e-14 if dtype == torch.float64 else 2e-6)
    with pytest.raises(ValueError, match="last = 3 and 4, got 5"):
        phis(z, 5)
    with pytest.raises(TypeError, match="z must be a floating tensor"):
        phis(torch.ones(2, dtype=torch.int))
