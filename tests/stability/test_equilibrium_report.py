"""Reports of equilibrium blocks, and the penalty of their Jacobians."""

import json
import math

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, EquilibriumBlock, models
from dampode.contractive import DensePotential
from dampode.damping import Constant
from dampode.integrators import SteadyState
from dampode.stability import equilibrium_report, jacobian_penalty, spectral_abscissa


class Linear(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, u):
        return x @ self.w.T + u


def test_a_row_per_block_and_sample():
    a = torch.tensor([[0.2, 1.0], [0.0, -0.4]], dtype=torch.float64)
    model = nn.Sequential(
        EquilibriumBlock(Linear(a), Constant(1.0)), EquilibriumBlock(DensePotential(2), Constant(0.5))
    ).double()
    report = equilibrium_report(model, torch.randn(3, 2, dtype=torch.float64))
    assert [(r.block, r.sample) for r in report.rows] == [(b, n) for b in "01" for n in range(3)]
    assert all(r.status == "SUCCESS" and r.residual < 1e-3 and r.calls > 1 for r in report.rows)
    for row in report.rows[:3]:
        assert row.abscissa == pytest.approx(0.2 - 1)
        assert not row.certified
    for row in report.rows[3:]:
        assert row.abscissa <= -0.5 + 1e-9
        assert row.certified
    assert report.table().count("\n") == 7
    assert json.loads(report.to_json())[0]["block"] == "0"


def test_a_failure_is_a_row():
    block = EquilibriumBlock(Linear(torch.eye(2)), Constant(1.0), integrator=SteadyState(strict=False))
    with pytest.warns(UserWarning, match="found no equilibrium"):
        report = equilibrium_report(block, torch.ones(1, 2))
    (row,) = report.rows
    assert row.status in ("MAX_CALLS", "STALLED")
    assert math.isnan(row.abscissa)
    assert json.loads(report.to_json())[0]["abscissa"] is None
    with pytest.raises(ValueError, match="must have an EquilibriumBlock"):
        equilibrium_report(nn.Linear(2, 2), torch.ones(1, 2))


def test_the_penalty_is_the_frobenius_norm():
    w = torch.randn(5, 5, dtype=torch.float64)
    func = DampedODEFunc(lambda x: x @ w.T, Constant(2.0))
    x = torch.randn(400, 5, dtype=torch.float64)
    estimate = jacobian_penalty(func, x, draws=50).item()
    assert estimate == pytest.approx(w.square().sum().item() / 5, rel=0.03)


def test_the_penalty_trains_a_field_to_a_stable_equilibrium():
    torch.manual_seed(0)
    block = EquilibriumBlock(Linear(torch.randn(6, 6) * 0.3), Constant(1.0))
    u = torch.randn(8, 6)
    optimizer = torch.optim.SGD(block.parameters(), 0.3)
    before = spectral_abscissa(block.func(u[:1]), torch.zeros(1, 6))
    for _ in range(20):
        optimizer.zero_grad()
        x = block(u)
        jacobian_penalty(block.func(u), x).backward()
        optimizer.step()
    assert spectral_abscissa(block.func(u[:1]), torch.zeros(1, 6)) + 1 < 0.5 * (before + 1)


def test_an_unrolled_block_tends_to_the_equilibrium():
    block = EquilibriumBlock(DensePotential(4, norm=1.0), Constant(0.5)).double()
    model, u = nn.Sequential(nn.Linear(4, 4).double(), block), torch.randn(3, 4, dtype=torch.float64)
    exact = model(u)
    errors = [(models.unrolled(model, k)(u) - exact).norm().item() for k in (1, 5, 25)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2
    assert isinstance(model[1], EquilibriumBlock)
    assert isinstance(models.unrolled(block, 2), models.UnrolledBlock)
    with pytest.raises(ValueError, match="must have an EquilibriumBlock"):
        models.unrolled(nn.Linear(2, 2), 3)
