"""The report by layer, and how errors propagate."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from dampode import DampedBlock, models, plots
from dampode.damping import Constant, Gated
from dampode.integrators import LinearizedEuler
from dampode.stability import (
    eigenvalues,
    error_propagation,
    jacobian,
    layer_report,
    log_norm,
    stability_region,
)
from dampode.weighting import one_plus, unit


def network(make=models.in_resnet, **named):
    torch.manual_seed(3)
    model = make(14, width=8, in_channels=1, mean=(0.5,), std=(0.25,), **named).double()
    model(torch.rand(32, 1, 8, 8).double())  # batch norm learns the statistics of its states
    return model.eval(), torch.rand(1, 1, 8, 8).double()


@pytest.mark.parametrize("make", [models.in_resnet, models.lambda_in_resnet])
def test_the_rows_are_the_numbers_of_the_flows(make):
    model, x = network(make)
    report = layer_report(model, x)
    assert [row.name for row in report.rows] == ["stages.0.1", "stages.1.1", "stages.2.1"]
    np.testing.assert_allclose([row.lam for row in report.rows], models.coefficients(model), rtol=1e-12)
    states = []
    flows = [module for module in model.modules() if isinstance(module, DampedBlock)]
    handles = [m.register_forward_hook(lambda m, args, out: states.append((m, args[0]))) for m in flows]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    for row, (block, state) in zip(report.rows, states, strict=True):
        assert row.dimension == state.numel()
        undamped, damped = jacobian(block.func.f, state), jacobian(block.func, state)
        for j, alpha, mu in (
            (undamped, row.abscissa_undamped, row.log_norm_undamped),
            (damped, row.abscissa, row.log_norm),
        ):
            assert alpha == pytest.approx(torch.linalg.eigvals(j).real.max().item(), abs=1e-7)
            assert mu == pytest.approx(torch.linalg.eigvalsh((j + j.T) / 2).max().item(), abs=1e-7)
        gain = torch.linalg.matrix_norm(jacobian(block, state), 2).item()
        assert row.gain == pytest.approx(gain, abs=1e-7)
        assert row.abscissa <= row.log_norm + 1e-9
        assert 0 < row.growth_random <= row.gain * 1.05  # ReLU's kinks leave the linearization by little
        assert 0 < row.growth_adversarial <= row.gain * 1.05


def test_the_report_as_table_and_json():
    report = layer_report(*network())
    lines = report.table().splitlines()
    assert len(lines) == 2 + 3
    heads = [head.strip() for head in lines[0].split(" | ")]
    assert heads[-3:] == ["growth, random", "growth, adversarial", "‖δx_{n+1}‖/‖x_{n+1}‖, adversarial |"]
    assert all(len(line.split(" | ")) == len(heads) == 11 for line in [lines[0], *lines[2:]])
    rows = json.loads(report.to_json())["rows"]
    assert rows[1]["name"] == "stages.1.1"
    assert rows[1]["gain"] == report.rows[1].gain
    assert all(math.isfinite(v) for row in rows for v in row.values() if not isinstance(v, str))


def test_gated_and_per_channel_damping_take_the_damped_fields_own_jacobian():
    x = torch.randn(1, 5, dtype=torch.float64)
    for damping in (Gated(5).double(), Constant(torch.linspace(0, 2, 5, dtype=torch.float64))):
        block = DampedBlock(nn.Linear(5, 5).double(), damping)
        (row,) = layer_report(nn.Sequential(block), x).rows
        assert row.lam == pytest.approx(damping(0.0, x).mean().item())
        assert row.abscissa == pytest.approx(eigenvalues(block.func, x, k=None).real.max().item(), abs=1e-9)
        assert row.log_norm == pytest.approx(log_norm(block.func, x), abs=1e-9)


def channelwise(lam):
    return lam + torch.linspace(0.5, 2, 5, dtype=torch.float64)


@pytest.mark.parametrize(
    "rho", [lambda lam: 1 - 4 * lam, lambda lam: 0 * lam, lambda lam: torch.sqrt(1 + lam), channelwise]
)
def test_any_weight_function_has_the_damped_fields_own_numbers(rho):
    """A ρ below 0 turns the spectrum round; one may be written for tensors, or give a weight a channel."""
    block, x = DampedBlock(nn.Linear(5, 5).double(), Constant(0.5), rho), torch.randn(1, 5, dtype=torch.float64)
    (row,) = layer_report(nn.Sequential(block), x).rows
    weight = rho(torch.tensor(0.5, dtype=torch.float64)).expand(5)
    j = weight[:, None] * block.func.f.f.weight.detach() - 0.5 * torch.eye(5, dtype=torch.float64)
    assert row.abscissa == pytest.approx(torch.linalg.eigvals(j).real.max().item(), abs=1e-9)
    assert row.log_norm == pytest.approx(torch.linalg.eigvalsh((j + j.T) / 2).max().item(), abs=1e-9)


def test_errors_of_a_linear_network_are_its_matrices():
    flows = [DampedBlock(nn.Linear(6, 6).double(), Constant(lam)) for lam in (0.0, 0.8)]
    model, x = nn.Sequential(*flows), torch.randn(3, 6, dtype=torch.float64)
    delta = 1e-3 * torch.randn_like(x)
    got = error_propagation(model, x, delta)
    after = delta
    for n, (flow, lam) in enumerate(zip(flows, (0.0, 0.8), strict=True)):
        before, after = after, (1 - lam) * after + after @ flow.func.f.f.weight.detach().T
        torch.testing.assert_close(got.growth[n], after.norm(dim=1) / before.norm(dim=1), rtol=1e-9, atol=0)
    torch.testing.assert_close(got.relative_growth, got.relative_error * got.state_before / got.before)


def test_the_states_scale_is_vacuous_under_batch_norm():
    """A damped network and its fold are one function; ‖δx‖ differs by the factor s, ‖δx‖/‖x‖ does not."""
    damped, x = network(low=0.5, high=0.6)
    folded = models.fold(damped)
    x = x.repeat(4, 1, 1, 1)
    delta = 1e-3 * torch.randn_like(x)
    got, plain = error_propagation(damped, x, delta), error_propagation(folded, x, delta)
    assert got.names == plain.names == tuple(f"stages.{i}.{j}" for i in range(3) for j in range(2))
    torch.testing.assert_close(got.relative_error, plain.relative_error, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.relative_growth, plain.relative_growth, rtol=1e-6, atol=0)
    for n, lam in enumerate(models.coefficients(damped)):
        torch.testing.assert_close(got.after[2 * n + 1], (1 - lam) * plain.after[2 * n + 1], rtol=1e-6, atol=0)


def test_bad_input():
    model, x = network()
    with pytest.raises(ValueError, match="one sample"):
        layer_report(model, x.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="finite"):
        layer_report(model, x * math.nan)
    with pytest.raises(ValueError, match="train mode"):
        layer_report(model.train(), x)
    model.eval()
    with pytest.raises(ValueError, match="must have DampedBlock layers"):
        layer_report(nn.Linear(3, 3), torch.randn(1, 3))
    with pytest.raises(ValueError, match="x's shape"):
        error_propagation(model, x, x[:, :, :4])
    with pytest.raises(ValueError, match="no delta may be 0"):
        error_propagation(model, x, 0 * x)
    with pytest.raises(ValueError, match="eps must be above 0"):
        layer_report(model, x, eps=0.0)
    with pytest.raises(TypeError, match=r"a seed must be an int, got 1\.5"):
        layer_report(model, x, seed=1.5)


# figures -------------------------------------------------------------------------------------------------------


def test_spectrum_shift_draws_eq18():
    figure, ax = plt.subplots()
    nu = torch.tensor([0.5 + 1j, -1.0 + 0j])
    assert plots.spectrum_shift(ax, nu, 0.5, one_plus) is ax
    before, after = (c.get_offsets() for c in ax.collections)
    np.testing.assert_allclose(before, [[0.5, 1], [-1, 0]])
    np.testing.assert_allclose(after, [[0.25, 1.5], [-2, 0]])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.5, 0.25])
    plt.close(figure)


def test_stability_regions_side_by_side():
    figure, axes = plt.subplots(1, 2)
    for ax, z in zip(axes, (0.0, 1.0), strict=True):
        region = stability_region(LinearizedEuler(), z, points=31)
        assert plots.stability_region(ax, region, f"hλ = {z:g}", torch.tensor([-1.0 + 0j])) is ax
        assert ax.lines[0].get_xdata()[0] == z
    plt.close(figure)


def test_growth_by_layer():
    figure, ax = plt.subplots()
    assert plots.growth_by_layer(ax, {"a": [1.0, 2.0], "b": [0.5, 0.4]}) is ax
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.5, 0.4])
    assert ax.get_yscale() == "log"
    plt.close(figure)


def test_unit_weight_is_the_default_shift():
    figure, ax = plt.subplots()
    plots.spectrum_shift(ax, torch.tensor([0.5 + 1j]), 0.5, unit)
    np.testing.assert_allclose(ax.collections[1].get_offsets(), [[0, 1]])
    plt.close(figure)


def test_dropout_in_train_mode_is_refused():
    """Two runs would draw two masks, and their difference would pass for the propagated error."""
    model = nn.Sequential(DampedBlock(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), Constant(0.1)))
    x = torch.ones(1, 3)
    with pytest.raises(ValueError, match=r"dropout must be in eval mode here, got 0.func.f.f.1 in train mode"):
        error_propagation(model, x, 1e-3 * x)
    assert error_propagation(model.eval(), x, 1e-3 * x).growth.item() < 10
