"""Equilibria, and their stability."""

import math

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.stability import (
    find_equilibrium,
    is_asymptotically_stable,
)
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("lam", [0.5, 2.0, 1e4])
def test_the_equilibrium_of_a_linear_field_is_the_solution(lam, rho):
    a = torch.randn(20, 20, dtype=torch.float64) / 10
    b = torch.randn(20, dtype=torch.float64)
    found = find_equilibrium(DampedODEFunc(lambda x: x @ a.T + b, Constant(lam), rho), torch.randn(1, 20).double())
    weight = float(rho(lam))
    exact = torch.linalg.solve(lam * torch.eye(20, dtype=torch.float64) - weight * a, weight * b)
    assert found.converged
    assert found.message == ""
    torch.testing.assert_close(found.x[0], exact, rtol=1e-7, atol=1e-7)


def test_a_zero_that_fixed_point_steps_leave_is_found():
    """A zero of slope 5, which every fixed-point step leaves."""
    found = find_equilibrium(lambda x: 5 * (x - 1) + (x - 1) ** 3, torch.tensor([[1.4]]).double())
    assert found.converged
    assert found.x.item() == pytest.approx(1, abs=1e-9)
    assert found.calls > 1
    x, converged, residual, calls = found
    assert (x.shape, converged, calls) == ((1, 1), True, found.calls)
    assert residual <= 1e-10


def test_no_equilibrium_is_an_answer_with_the_best_state():
    found = find_equilibrium(lambda x: x**2 + 1, torch.tensor([[3.0]]).double())
    assert not found.converged
    assert "may have no equilibrium" in found.message
    assert found.residual == pytest.approx(((found.x**2 + 1) / (1 + found.x.abs())).item())
    assert found.residual < 10 / 4


def test_stability_is_judged_at_the_damped_fields_own_equilibrium():
    """f = 2 tanh(x) − 1 at λ = 0 and λ = 3: different equilibria, and the other field's is refused."""
    f = lambda x: 2 * torch.tanh(x) - 1  # noqa: E731
    x0 = torch.tensor([[0.4]], dtype=torch.float64)
    plain, damped = DampedODEFunc(f, Constant(0.0)), DampedODEFunc(f, Constant(3.0))
    at_plain, at_damped = find_equilibrium(plain, x0), find_equilibrium(damped, x0)
    assert at_plain.converged
    assert at_damped.converged
    assert (at_plain.x - at_damped.x).abs().item() > 0.1
    assert is_asymptotically_stable(plain, at_plain.x) is False
    assert is_asymptotically_stable(damped, at_damped.x) is True
    with pytest.raises(ValueError, match="equilibrium of this field"):
        is_asymptotically_stable(damped, at_plain.x)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_axis_is_undecided(sign):
    """A rotation with ±x³ is unstable or stable, and its linearization cannot tell."""
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    field = lambda x: x @ rotation + sign * x**3  # noqa: E731
    assert is_asymptotically_stable(field, torch.zeros(1, 2, dtype=torch.float64)) is None


def test_equilibrium_bad_input():
    with pytest.raises(ValueError, match="one sample"):
        find_equilibrium(Forced(3), torch.zeros(2, 3).double())
    with pytest.raises(ValueError, match="finite"):
        find_equilibrium(Forced(3), torch.full((1, 3), math.inf).double())
    with pytest.raises(ValueError, match="keep the state's shape"):
        find_equilibrium(lambda x: x.sum(1, keepdim=True), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="train mode"):
        find_equilibrium(nn.BatchNorm1d(3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="keep the state's shape"):
        is_asymptotically_stable(lambda x: x[:, :2], torch.randn(1, 6).double())
    with pytest.raises(ValueError, match="memory must be a positive int"):
        find_equilibrium(Forced(3), torch.zeros(1, 3), memory=-1)
