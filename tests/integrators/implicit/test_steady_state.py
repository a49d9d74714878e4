"""SteadyState: equilibria of each sample, their gradients, and the fields that have none."""

import gc
import math

import pytest
import torch
from scipy.optimize import root
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from dampode import DampedBlock, DampedODEFunc, EquilibriumBlock, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.fields import TimeDependent
from dampode.integrators import (
    InexactGradientWarning,
    IntegrationError,
    KenCarp4,
    Status,
    SteadyState,
    UnconvergedWarning,
)
from dampode.weighting import one_plus, unit

TIGHT = SteadyState(rtol=1e-11, atol=1e-12, gradient_rtol=1e-12)


def tanh_field(d=6, gain=0.8, dtype=torch.float64):
    w, b = gain * torch.randn(d, d, dtype=dtype) / d**0.5, torch.randn(d, dtype=dtype)
    return lambda x: torch.tanh(x @ w.T + b)


def one(f, start, lam=1.0, **settings):
    x = torch.tensor([[start]], dtype=torch.float64)
    return SteadyState(**settings).equilibria(DampedODEFunc(f, Constant(lam)), x)


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("make", [lambda: Constant(0.9), lambda: Learned(1, 3, shape=(6,)), lambda: Gated(6)])
def test_it_is_where_a_long_integration_ends_and_a_root_finder_too(make, rho):
    func = DampedODEFunc(tanh_field(gain=0.3), make().double(), rho)
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        got = TIGHT(func, x, 0.0, 1.0)
        ended = odeint(func, x, torch.tensor([0.0, 40.0]), KenCarp4(rtol=1e-9, atol=1e-10))[-1]
        for sample in got:
            found = root(lambda v: func(0.0, torch.from_numpy(v)[None])[0].numpy(), sample.numpy() + 0.1, tol=1e-12)
            torch.testing.assert_close(sample, torch.from_numpy(found.x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got, ended, rtol=1e-5, atol=1e-6)


def test_the_residual_is_measured_at_the_state_that_is_returned():
    f, x = tanh_field(), torch.randn(5, 6, dtype=torch.float64)
    for rtol in (1e-2, 1e-5, 1e-9):
        found = SteadyState(rtol=rtol, atol=1e-12).equilibria(DampedODEFunc(f, Constant(2.0)), x)
        residual = f(found.x) - 2 * found.x
        torch.testing.assert_close(found.residual, residual.square().mean(1).sqrt(), rtol=1e-6, atol=1e-15)
        assert (residual.norm(dim=1) <= 1.001 * (rtol * 2 * found.x.norm(dim=1) + 1e-11)).all()
        assert found.converged


@pytest.mark.parametrize(
    ("f", "start", "lam", "status"),
    [
        (lambda x: x + 1, 0.0, 1.0, Status.MAX_CALLS),  # −λx + f = 1 everywhere
        (lambda x: x**2 + 1, 3.0, 0.0, Status.MAX_CALLS),
        (torch.exp, 0.0, 0.0, Status.MAX_CALLS),  # the residual tends to 0 at infinity
        (lambda x: torch.exp(-x), 0.0, 0.0, Status.MAX_CALLS),
        (torch.ones_like, 0.5, 0.0, Status.MAX_CALLS),
        (lambda x: 0.1 - (x > 0.3).to(x), 0.0, 0.1, Status.MAX_CALLS),  # it jumps over the equilibrium
        (lambda x: x / 0, 0.5, 1.0, Status.NOT_FINITE),
        (lambda x: x, math.nan, 1.0, Status.NOT_FINITE),
    ],
)
def test_no_equilibrium_is_never_a_success(f, start, lam, status):
    found = one(f, start, lam)
    assert not found.converged
    assert found.status[0] is status or {found.status[0], status} == {Status.MAX_CALLS, Status.STALLED}
    with pytest.raises(IntegrationError, match="found no equilibrium, the first at index 0"):
        SteadyState()(DampedODEFunc(f, Constant(lam)), torch.tensor([[start]]).double(), 0.0, 1.0)


def test_without_damping_it_finds_a_zero_of_f_and_a_field_that_diverges_may_have_one():
    assert one(lambda x: torch.cos(x) - 0.5, 0.5, 0.0).x.item() == pytest.approx(math.pi / 3, abs=1e-4)
    unstable = one(lambda x: 5 * (x - 1) + (x - 1) ** 3, 1.4, 0.5)
    assert unstable.converged
    assert 5 * (unstable.x - 1) + (unstable.x - 1) ** 3 == pytest.approx(0.5 * unstable.x, abs=1e-3)


@pytest.mark.parametrize("start", [-0.2, 0.1, 2.0])
def test_one_of_two_equilibria_is_found(start):
    """x = tanh(2x) has −a, 0 and a."""
    x = one(lambda v: torch.tanh(2 * v), start, rtol=1e-9, atol=1e-10).x.item()
    assert x == pytest.approx(math.tanh(2 * x), abs=1e-8)


def test_samples_do_not_influence_one_another():
    """A sample beside others that need other numbers of calls, diverge or are not finite: the same calls and bits."""
    w = torch.randn(8, 8, dtype=torch.float64) / 3
    gains = torch.tensor([0.1, 0.9, 1.5, 40.0, math.nan], dtype=torch.float64)

    class Field(nn.Module):
        def __init__(self, gains):
            super().__init__()
            self.gains = gains

        def forward(self, x):
            return self.gains[:, None] * torch.tanh((x[:, None] * w).sum(2) + 1)

    x = torch.randn(5, 8, dtype=torch.float64)
    together = TIGHT.equilibria(DampedODEFunc(Field(gains), Constant(1.0)), x)
    assert len(set(together.nfe.tolist())) >= 4
    assert together.status[4] is Status.NOT_FINITE
    for n in range(5):
        alone = TIGHT.equilibria(DampedODEFunc(Field(gains[n : n + 1]), Constant(1.0)), x[n : n + 1])
        assert alone.nfe.item() == together.nfe[n].item()
        assert alone.status[0] is together.status[n]
        if n < 3:
            torch.testing.assert_close(alone.x[0], together.x[n], rtol=1e-12, atol=1e-13)


def test_an_f_that_mixes_samples_or_draws_is_refused():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match="acts on each sample by itself"):
        SteadyState()(DampedODEFunc(lambda x: torch.tanh(x + x.mean(0)), Constant(3.0)), 5 * x, 0.0, 1.0)
    for layer in (nn.BatchNorm1d(3), nn.Dropout(0.5)):
        with pytest.raises(ValueError, match="in train mode"):
            SteadyState()(DampedODEFunc(layer, Constant(3.0)), x, 0.0, 1.0)


def test_a_warm_start_costs_one_call():
    func, x = DampedODEFunc(tanh_field(), Constant(1.2)), torch.randn(3, 6, dtype=torch.float64)
    cold = SteadyState().equilibria(func, x)
    warm = SteadyState().equilibria(func, cold.x)
    assert warm.nfe.tolist() == [1, 1, 1]
    assert torch.equal(warm.x, cold.x)
    assert (cold.nfe > 5).all()


def test_trajectory_is_the_equilibrium_of_the_field_at_each_time():
    func = DampedODEFunc(TimeDependent(lambda t, x: t * torch.ones_like(x)), Constant(2.0))
    x, times = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    times.requires_grad_()
    xs = odeint(func, x, times, SteadyState())
    torch.testing.assert_close(xs[:, 0, 0], times / 2)
    (slope,) = torch.autograd.grad(xs[2].sum(), times)
    torch.testing.assert_close(slope, torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64))
    solution = solve(func, x, times.detach(), SteadyState())
    assert solution.status == (Status.SUCCESS,) * 2
    assert solution.nfe.tolist() == [solution.nfe[0].item()] * 2
    torch.testing.assert_close(solution.x, xs.detach())


def test_a_failed_sample_is_nan_in_a_solution_and_passes_without_strict():
    a = torch.tensor([[0.5], [1.0]])
    func, x = DampedODEFunc(lambda v: a * v + 1, Constant(1.0)), torch.zeros(2, 1)
    solution = solve(func, x, torch.tensor([0.0, 1.0, 2.0]), SteadyState())
    assert solution.status == (Status.SUCCESS, Status.MAX_CALLS)
    assert torch.isnan(solution.x[1:, 1]).all()
    assert solution.reached.tolist() == [2.0, 0.0]
    torch.testing.assert_close(solution.x[1:, 0], torch.full((2, 1), 2.0))
    with pytest.warns(UnconvergedWarning, match="1 of 2 samples"):
        SteadyState(strict=False)(func, x, 0.0, 1.0)


def block(d=4):
    class F(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(d, d), nn.Linear(d, d)

        def forward(self, x, u):
            return torch.tanh(0.4 * self.a(x) + self.b(u))

    return EquilibriumBlock(F(), Learned(1.0, 1.5, shape=(d,)), integrator=TIGHT).double()


def test_gradients_are_those_of_finite_differences():
    layer, u = block(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())
    weight = torch.randn(3, 4, dtype=torch.float64)
    assert gradcheck(lambda v, *p: layer(v), (u, *parameters), eps=1e-6, atol=1e-6)
    (got,) = torch.autograd.grad((layer(u) * weight).sum(), layer.damping.raw)
    for i in range(4):
        h = 1e-5
        values = []
        for sign in (1, -1):
            layer.damping.raw.data[i] += sign * h
            values.append((layer(u) * weight).sum().item())
            layer.damping.raw.data[i] -= sign * h
        assert got[i].item() == pytest.approx((values[0] - values[1]) / (2 * h), abs=1e-6)


def test_second_derivatives():
    layer, u = block(2), torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda v, *p: layer(v), (u, *layer.parameters()), eps=1e-5, atol=1e-4)


def test_the_gradient_to_the_start_is_zero():
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    got = DampedBlock(tanh_field(), Constant(1.5), integrator=SteadyState())(x)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))
    assert not SteadyState()(DampedODEFunc(tanh_field(), Constant(1.5)), x.detach(), 0.0, 1.0).requires_grad


def test_the_error_of_a_gradient_is_reported():
    """The truncated series is a phantom gradient: its error is measured, and falls with its terms."""
    layer, u = block(), torch.randn(3, 4, dtype=torch.float64)
    exact, reports = None, []
    for terms in (None, 1, 5, 25):
        layer.integrator = SteadyState(rtol=1e-11, atol=1e-12, gradient_rtol=1e-10, gradient_terms=terms)
        found = layer.equilibria(u)
        assert found.gradient.residual is None
        gradient = torch.autograd.grad(found.x.square().sum(), layer.f.a.weight)[0]
        exact = gradient if exact is None else exact
        error = ((gradient - exact).norm() / exact.norm()).item()
        reports.append((error, found.gradient.residual.max().item(), found.gradient.products))
    assert reports[0][1] <= 1e-10
    for error, measured, _ in reports[1:]:
        assert error < 10 * measured + 1e-14
        assert measured < 100 * error + 1e-12
    assert reports[1][1] > 10 * reports[2][1] > 100 * reports[3][1]
    assert [products for *_, products in reports[1:]] == [1, 5, 25]


def test_a_gradient_that_is_not_solved_warns():
    """x = x² + 1/4 has one double equilibrium, where I − ∂g/∂x is 0."""
    c = torch.full((1, 1), 0.25, dtype=torch.float64, requires_grad=True)
    found = SteadyState().equilibria(
        DampedODEFunc(lambda x: x**2 + c, Constant(1.0)), torch.full((1, 1), 0.5, dtype=torch.float64)
    )
    with pytest.warns(InexactGradientWarning, match="nearly singular"):
        found.x.sum().backward()
    assert found.gradient.residual.item() > 1e-3


def test_memory_is_flat_in_the_number_of_steps():
    """No graph and no state is kept per call: the tensors alive after 20 calls are those after 150."""
    alive = []

    class F(nn.Module):
        def forward(self, x):
            counts.append(0)
            if len(counts) in (20, 150):
                gc.collect()
                alive.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
            return 0.999 * x @ q + 1

    counts, q = [], torch.linalg.qr(torch.randn(300, 300))[0]
    SteadyState(rtol=1e-9, memory=2, max_calls=160).equilibria(DampedODEFunc(F(), Constant(1.0)), torch.zeros(2, 300))
    assert len(alive) == 2
    assert alive[0] == alive[1]


def test_autocast_and_float32():
    layer = block().float()
    layer.integrator = SteadyState()
    u = torch.randn(3, 4)
    want = layer(u)
    torch.testing.assert_close(layer(u), want)
    with torch.autocast("cpu", torch.bfloat16):
        loose = EquilibriumBlock(layer.f, layer.damping, integrator=SteadyState(rtol=1e-2, strict=False))(u)
    assert loose.dtype == torch.float32
    torch.testing.assert_close(loose, want, rtol=0.1, atol=0.1)
    with pytest.raises(TypeError, match="float32 or float64"):
        layer.bfloat16()(u.bfloat16())


@pytest.mark.parametrize(
    "wrong", [{"rtol": 0.0}, {"max_calls": 0}, {"memory": 1.5}, {"gradient_terms": 0}, {"strict": 1}]
)
def test_bad_settings(wrong):
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        SteadyState(**wrong)
