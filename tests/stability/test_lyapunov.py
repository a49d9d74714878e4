"""Lyapunov exponents along trajectories and through layers."""

import numpy as np
import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant
from dampode.integrators import ExponentialEuler, Krogstad4, LinearizedEuler, TorchDiffEq
from dampode.stability import (
    ConvergenceError,
    jacobian,
    layer_exponents,
    lyapunov_exponents,
    stability_function,
)
from tests.helpers.oracles import Forced

LINEAR = torch.tensor([[-10.0, 10, 0], [28, -1, 0], [0, 0, -8 / 3]], dtype=torch.float64)
PRODUCTS = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)  # of a (a, b, c)


def lorenz(x):
    return x @ LINEAR.T + (x[:, :1] * x) @ PRODUCTS.T


@pytest.mark.parametrize("integrator", [TorchDiffEq("rk4"), LinearizedEuler(4), ExponentialEuler(4)])
def test_a_linear_systems_exponents_are_its_real_parts(integrator):
    a = torch.diag(torch.tensor([0.3, -0.2, -1.0], dtype=torch.float64))
    a[0, 1], a[1, 2] = 2.0, -1.0
    func = DampedODEFunc(lambda x: x @ a.T, Constant(0.4))
    got = lyapunov_exponents(func, torch.randn(1, 3).double(), 30.0, 3, 0.1, settle=15.0, integrator=integrator)
    steps = stability_function(integrator, 0.1 * 0.4, a.diagonal() / 0.4).abs().log() / 0.1  # of the discrete flow
    torch.testing.assert_close(got, steps, rtol=0, atol=1e-3)
    torch.testing.assert_close(got, torch.tensor([-0.1, -0.6, -1.4], dtype=torch.float64), rtol=0, atol=3e-2)


def test_lorenz_exponents_add_up_to_the_divergence():
    got = lyapunov_exponents(lorenz, torch.tensor([[1.0, 1.0, 20.0]]).double(), 6.0, 3, 0.02, settle=1.0)
    assert got.sum().item() == pytest.approx(-41 / 3, abs=5e-3)


@pytest.mark.slow
def test_lorenz_exponents():
    got = lyapunov_exponents(lorenz, torch.tensor([[1.0, 1.0, 20.0]]).double(), 110.0, 3, 0.025, settle=10.0)
    torch.testing.assert_close(got, torch.tensor([0.9056, 0.0, -14.57], dtype=torch.float64), rtol=0, atol=0.05)
    assert got.sum().item() == pytest.approx(-13.667, abs=1e-2)


def test_exponents_of_layers_are_those_of_the_products_of_their_jacobians():
    flows = [DampedBlock(nn.Linear(4, 4), Constant(0.3)).double() for _ in range(3)]
    model = nn.Sequential(nn.Linear(5, 4).double(), flows[0], nn.Tanh(), flows[1], flows[2]).eval()
    x = torch.randn(1, 5, dtype=torch.float64)
    got = layer_exponents(model, x, 4)
    assert got.names == ("1", "3", "4")
    assert got.exponents.shape == (3, 4)
    for n, flow in enumerate(flows):  # all of the state's directions: their volume grows by the determinant
        j = 0.7 * torch.eye(4, dtype=torch.float64) + flow.func.f.f.weight
        assert got.exponents[n].sum().item() == pytest.approx(torch.linalg.det(j).abs().log().item(), abs=1e-9)
    one = layer_exponents(model, x, 1)
    tangent = torch.func.jvp(model, (x,), (_first_tangent(x),))[1]
    assert one.through.item() == pytest.approx(tangent.norm().log().item(), abs=1e-9)


def block(lam=0.5):
    return DampedBlock(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), Constant(lam)).double()


class Skip(nn.Module):
    """Two flows with a path around the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = block(), block()

    def forward(self, x):
        return self.b(self.a(x) + x)


def differences(f, x, h=1e-6):
    """The Jacobian by central differences."""
    eye = torch.eye(x.numel(), dtype=x.dtype)
    with torch.no_grad():
        return torch.stack([(f(x + h * e) - f(x - h * e))[0] / (2 * h) for e in eye], dim=1)


def log_det(j):
    return torch.linalg.slogdet(j).logabsdet.item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_path_around_a_flow_carries_the_perturbations_too(seed):
    model, x = Skip().eval(), torch.randn(1, 4, dtype=torch.float64)
    got, j = layer_exponents(model, x, 4, seed=seed), jacobian(model, x)
    assert got.names == ("a", "b")
    assert got.through.sum().item() == pytest.approx(log_det(j), abs=1e-9)
    assert got.through.sum().item() == pytest.approx(log_det(differences(model, x)), abs=1e-6)
    at_b = (model.a(x) + x).detach()
    for exponents, flow, state in zip(got.exponents, (model.a, model.b), (x, at_b), strict=True):
        assert exponents.sum().item() == pytest.approx(log_det(jacobian(flow, state)), abs=1e-9)
        assert exponents.sum().item() == pytest.approx(log_det(differences(flow, state)), abs=1e-6)
    for k in (1, 3):
        draws = torch.randn(4, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        r = torch.linalg.qr(j @ torch.linalg.qr(draws).Q).R
        few = layer_exponents(model, x, k, seed=seed)
        torch.testing.assert_close(few.through, r.diagonal().abs().log(), rtol=0, atol=1e-9)


def test_a_flow_inside_a_flow_has_exponents_of_its_own():
    outer = DampedBlock(block(), Constant(0.3))
    x = torch.randn(1, 4, dtype=torch.float64)
    got = layer_exponents(nn.Sequential(outer).eval(), x, 4)
    assert got.names == ("0.func.f.f", "0")
    for exponents, flow in zip(got.exponents, (outer.func.f.f, outer), strict=True):
        assert exponents.sum().item() == pytest.approx(log_det(differences(flow, x)), abs=1e-6)
    torch.testing.assert_close(got.through, got.exponents[1], rtol=0, atol=1e-12)


def test_a_flows_exponents_are_those_of_its_whole_time():
    flow = DampedBlock(lambda x: 0 * x, Constant(0.5), integrator=ExponentialEuler(), t_span=(0.0, 4.0))
    got = layer_exponents(nn.Sequential(flow), torch.randn(1, 4, dtype=torch.float64), 2)
    torch.testing.assert_close(got.exponents, torch.full((1, 2), -2.0, dtype=torch.float64))


def test_perturbations_that_rounding_cannot_tell_apart_are_refused():
    """Of a chain that contracts one direction far more than the others, float32 loses what float64 still has."""
    a = torch.diag(torch.tensor([1.0, 0.9, 0.8, 0.2], dtype=torch.float64))
    chain = [DampedBlock(nn.Linear(4, 4, bias=False).double(), Constant(1.0)) for _ in range(8)]
    for flow in chain:
        flow.func.f.f.weight.data.copy_(a)
    model, x = nn.Sequential(*chain).eval(), torch.randn(1, 4, dtype=torch.float64)
    exact = 8 * torch.log(a.diagonal()).sum().item()
    assert layer_exponents(model, x, 4).through.sum().item() == pytest.approx(exact, abs=1e-9)
    torch.testing.assert_close(
        layer_exponents(model.float(), x.float(), 3).through,
        layer_exponents(model.double(), x, 3).through,
        rtol=0,
        atol=1e-4,
    )
    with pytest.raises(ConvergenceError, match=r"k = 4 perturbations .* at block '\d' .* smaller k, or .* float64"):
        layer_exponents(model.float(), x.float(), 4)
    gone = nn.Sequential(DampedBlock(lambda x: 0 * x, Constant(1.0)))
    with pytest.raises(ConvergenceError, match="k = 1 perturbations must stay finite and linearly independent"):
        layer_exponents(gone, x, 1)


def _first_tangent(x):
    draws = torch.randn(x.numel(), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (draws / draws.norm() * torch.sign(torch.linalg.qr(draws).R[0, 0])).T


def test_at_least_one_step_counts_however_late_the_trajectory_settles():
    x = torch.ones(1, 2, dtype=torch.float64)
    got = lyapunov_exponents(lambda x: -x, x, 1.0, dt=0.01, settle=0.996)
    assert got.item() == pytest.approx(-1, abs=1e-8)


def test_tangents_that_vanish_and_layers_without_derivatives_are_named():
    x = torch.randn(1, 3, dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=r"a step makes it 0 at t = 0\.5.*adjoint=False"):
        lyapunov_exponents(Forced(3), x, 1.0, dt=0.5, integrator=TorchDiffEq("rk4", adjoint=True))
    network = nn.Sequential(DampedBlock(Forced(3), integrator=TorchDiffEq("dopri5"))).eval()
    with pytest.raises(ValueError, match=r"must have a forward-mode derivative.*TorchDiffEq\(.rk4.\)"):
        layer_exponents(network, x)


@pytest.mark.parametrize(
    ("integrator", "words"),
    [(TorchDiffEq("rk4"), "every step must succeed"), (Krogstad4(), "left the finite numbers")],
    ids=repr,
)
def test_a_trajectory_that_leaves_the_finite_numbers_brings_the_exponents_up_to_there(integrator, words):
    """x' = x² from 1 ends at t = 1; the steps, a little later."""
    x = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    with pytest.raises(ConvergenceError, match=rf"{words}.* 1\.03.*another integrator") as caught:
        lyapunov_exponents(lambda x: x * x, x, 10.0, 2, integrator=integrator)
    until = lyapunov_exponents(lambda x: x * x, x, 1.02, 2, integrator=integrator)
    torch.testing.assert_close(caught.value.best, until, rtol=1e-4, atol=0)
    with pytest.raises(ConvergenceError, match=words) as caught:
        lyapunov_exponents(lambda x: x * x, 1e200 * x, 10.0, integrator=integrator)
    assert caught.value.best is None


def test_exponents_bad_input():
    x = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="k must be at most"):
        lyapunov_exponents(Forced(3), x, 1.0, 4)
    with pytest.raises(ValueError, match="t1 must be above"):
        lyapunov_exponents(Forced(3), x, 1.0, settle=2.0)
    with pytest.raises(ValueError, match="one sample"):
        lyapunov_exponents(Forced(3), x.repeat(2, 1), 1.0)
    with pytest.raises(ValueError, match="must have DampedBlock layers"):
        layer_exponents(nn.Linear(3, 3).double(), x)
    for seed in (1.5, True, "0"):
        with pytest.raises(TypeError, match="a seed must be an int"):
            lyapunov_exponents(Forced(3), x, 1.0, seed=seed)
        with pytest.raises(TypeError, match="a seed must be an int"):
            layer_exponents(Skip(), torch.zeros(1, 4, dtype=torch.float64), seed=seed)
    with pytest.raises(ValueError, match="every block must keep the batch, got 4 samples for 2 at block '2'"):
        layer_exponents(nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1), block()), torch.ones(1, 8).double(), 2)


def test_seeds_of_any_integer_type_draw_the_same():
    model, x = Skip().eval(), torch.randn(1, 4, dtype=torch.float64)
    for seed in (np.int64(7), torch.tensor(7)):
        assert torch.equal(layer_exponents(model, x, seed=seed).through, layer_exponents(model, x, seed=7).through)
