"""Eq. 18: the shift, its condition with the sign case, and the smallest λ."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.stability import (
    critical_damping,
    damped_eigenvalues,
    damping_condition,
    eigenvalues,
    spectral_abscissa,
)
from dampode.weighting import one_plus, unit
from tests.helpers.fields import both_rho, linear, matrix
from tests.helpers.oracles import Forced


@both_rho
@pytest.mark.parametrize("lam", [0.0, 0.6, 40.0])
def test_eq18_is_the_spectrum_of_the_damped_jacobian(lam, rho):
    f, x = Forced(5), torch.randn(1, 5, dtype=torch.float64)
    expected = eigenvalues(DampedODEFunc(f, Constant(lam), rho), x, 0.2, k=None)
    got = damped_eigenvalues(eigenvalues(f, x, 0.2, k=None), lam, rho)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * (1 + lam))


def test_eq18_defaults_to_the_unit_weight_and_takes_a_weight_function_of_tensors():
    nu = torch.tensor([0.5 + 1j, -1.0], dtype=torch.complex128)
    assert torch.equal(damped_eigenvalues(nu, 0.3), nu - 0.3)
    assert damping_condition(nu, 0.3).bound.tolist() == damping_condition(nu, 0.3, unit).bound.tolist()
    assert critical_damping(nu) == pytest.approx(0.5)
    root = lambda lam: torch.sqrt(1 + lam)  # noqa: E731
    assert torch.equal(damped_eigenvalues(nu, 3.0, root), 2 * nu - 3)
    assert critical_damping(nu, root) == pytest.approx((1 + math.sqrt(17)) / 8)  # λ² = (1 + λ) / 4
    with pytest.raises(ValueError, match=r"ρ must give one number for one λ, got shape \(2,\) at λ = 0\.3"):
        damped_eigenvalues(nu, 0.3, lambda lam: torch.ones(2))


def test_eq18_of_eigenvalues_with_a_graph_is_detached():
    nu = torch.tensor([0.5, -1.0], requires_grad=True)
    for got in (damped_eigenvalues(nu, 0.5, one_plus), *damping_condition(nu, 0.5, one_plus)):
        assert not got.requires_grad
    assert damped_eigenvalues(nu, 0.5, one_plus).tolist() == [0.25, -2.0]  # each in its place
    assert critical_damping(nu, one_plus) == pytest.approx(1)


@pytest.mark.gpu
def test_eq18_of_eigenvalues_on_cuda_is_on_the_cpu():
    nu = torch.tensor([0.5, -1.0], device="cuda")
    for got in (damped_eigenvalues(nu, 0.5, unit), *damping_condition(nu, 0.5, unit)):
        assert got.device.type == "cpu"


def test_eq18_sign_case():
    """With ρ = 1 + λ, damping moves an eigenvalue to the left exactly where Re ν < 1: also where Re ν < 0."""
    nu = torch.tensor([-2.0, -0.1, 0.5, 0.999, 1.001, 3.0])
    moved_left = damped_eigenvalues(nu, 0.7, one_plus) < nu
    assert moved_left.tolist() == [True, True, True, True, False, False]
    with pytest.raises(ValueError, match="λ must be at least 0"):
        damped_eigenvalues(nu, -1.0, unit)


@given(st.floats(-5, 5), st.floats(0.01, 10), st.sampled_from([unit, one_plus, lambda lam: 0.3, lambda lam: lam**2]))
def test_the_condition_is_its_printed_form_for_positive_and_turned_round_for_negative_real_parts(real, lam, rho):
    nu = torch.tensor([complex(real, 0.7)], dtype=torch.complex128)
    bound, side, holds = damping_condition(nu, lam, rho)
    shifted = damped_eigenvalues(nu, lam, rho)
    if abs(real) < 1e-6 or abs(shifted.real - nu.real).item() < 1e-9:
        return
    assert holds.item() == (shifted.real < nu.real).item()
    weight = float(rho(lam))
    assert holds.item() == (weight < bound.item() if side.item() > 0 else weight > bound.item())


def test_the_condition_on_the_axis_is_any_damping():
    bound, side, holds = damping_condition(torch.tensor([2j, 0j]), 0.4, one_plus)
    assert bound.isinf().all()
    assert side.tolist() == [0, 0]
    assert holds.all()
    assert not damping_condition(torch.tensor([2j]), 0.0, unit).holds.any()


@given(st.floats(-3, 3))
def test_critical_damping_of_both_weight_functions(a):
    nu = torch.tensor([complex(a, 1), complex(a - 1, 0)], dtype=torch.complex128)
    assert critical_damping(nu, unit) == pytest.approx(max(a, 0.0), abs=1e-9)
    expected = math.inf if a >= 1 else max(a, 0.0) / (1 - a)
    if abs(a - 1) > 1e-3:
        assert critical_damping(nu, one_plus) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("a", [1e13, 1e150, 1e290])
def test_critical_damping_of_a_huge_eigenvalue(a):
    assert critical_damping(torch.tensor([a], dtype=torch.float64), unit) == pytest.approx(a, rel=1e-12)
    assert critical_damping(torch.tensor([a], dtype=torch.float64), one_plus) == math.inf


@both_rho
def test_critical_damping_is_where_the_measured_abscissa_changes_sign(rho):
    a = matrix(8, seed=2) * 0.5
    x = torch.zeros(1, 8, dtype=torch.float64)
    lam = critical_damping(eigenvalues(linear(a)[0], x, k=None), rho)
    assert 0 < lam < math.inf
    assert spectral_abscissa(linear(a, 0.99 * lam, rho)[0], x) > 0 > spectral_abscissa(linear(a, 1.01 * lam, rho)[0], x)


def test_the_condition_of_whole_numbers_keeps_a_fractional_damping():
    assert damping_condition(torch.tensor([1, 2]), 0.5, one_plus).bound.tolist() == [1.5, 1.25]
