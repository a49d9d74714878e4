"""Equilibria, Lyapunov exponents, stability regions."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant
from dampode.integrators import ETD2RK, ExponentialEuler, Integrator, Krogstad4, LinearizedEuler, TorchDiffEq
from dampode.stability import (
    ConvergenceError,
    eigenvalues,
    find_equilibrium,
    is_asymptotically_stable,
    jacobian,
    largest_stable_step,
    layer_exponents,
    lyapunov_exponents,
    stability_function,
    stability_region,
)
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced

LINEAR = torch.tensor([[-10.0, 10, 0], [28, -1, 0], [0, 0, -8 / 3]], dtype=torch.float64)
PRODUCTS = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)  # of a (a, b, c)


def lorenz(x):
    return x @ LINEAR.T + (x[:, :1] * x) @ PRODUCTS.T


# equilibria ----------------------------------------------------------------------------------------------------


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


def test_newton_finishes_what_fixed_point_steps_cannot():
    """A zero of slope 5, which every fixed-point step leaves."""
    found = find_equilibrium(
        lambda x: 5 * (x - 1) + (x - 1) ** 3, torch.tensor([[1.4]]).double(), window=0, start_steps=3
    )
    assert found.converged
    assert found.x.item() == pytest.approx(1, abs=1e-9)
    assert found.iterations > 1
    x, converged, residual, iterations = found
    assert (x.shape, converged, iterations) == ((1, 1), True, found.iterations)
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
    with pytest.raises(ValueError, match="window must be at least 0"):
        find_equilibrium(Forced(3), torch.zeros(1, 3), window=-1)


# Lyapunov exponents --------------------------------------------------------------------------------------------


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
    with pytest.raises(ConvergenceError, match=r"k = 4 perturbations .* at flow '\d' .* smaller k, or .* float64"):
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
    with pytest.raises(ValueError, match="every flow must keep the batch, got 4 samples for 2 at flow '2'"):
        layer_exponents(nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1), block()), torch.ones(1, 8).double(), 2)


def test_seeds_of_any_integer_type_draw_the_same():
    model, x = Skip().eval(), torch.randn(1, 4, dtype=torch.float64)
    for seed in (np.int64(7), torch.tensor(7)):
        assert torch.equal(layer_exponents(model, x, seed=seed).through, layer_exponents(model, x, seed=7).through)


# regions -------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("kind", [k for k in concrete(Integrator) if not getattr(k, "__abstractmethods__", ())])
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
