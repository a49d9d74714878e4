"""AdaptiveExponential: accuracy, batches, gradients, host reads."""

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, Status
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced, dop853

TIGHT = AdaptiveExponential(rtol=1e-9, atol=1e-12)


def reference(func, x, t):
    dense = dop853(func, x, t[0].item(), t[-1].item()).sol
    return torch.stack([torch.from_numpy(dense(s)).view(x.shape) for s in t.tolist()])


class Times(VectorField):
    """f(x, t) = cos(t), noting the times of every sample."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, t, x):
        self.calls.append(torch.as_tensor(t).flatten())
        return torch.cos(t) * torch.ones_like(x)


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("lam", [0.0, 1.0, 30.0])
def test_tolerance_bounds_the_error_along_the_trajectory(lam, rho):
    func = DampedODEFunc(Forced(4, lipschitz=2.0), Constant(lam), rho)
    x, t = torch.randn(3, 4, dtype=torch.float64), torch.linspace(0.0, 2.0, 17, dtype=torch.float64)
    exact = reference(func, x, t)
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        with torch.no_grad():
            errors.append((odeint(func, x, t, AdaptiveExponential(tol, tol * 1e-2)) - exact).abs().max().item())
        assert errors[-1] < 5 * tol * exact.abs().max().item()
    assert errors[1] < errors[0] / 10  # proportional to the tolerance, within a decade
    assert errors[2] < errors[1] / 10


def test_per_channel_damping_over_five_decades():
    lam = torch.logspace(-1, 4, 6, dtype=torch.float64)
    func = DampedODEFunc(Forced(6), Constant(lam))
    x, t = torch.randn(2, 6, dtype=torch.float64), torch.linspace(0.0, 1.0, 6, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = (odeint(func, x, t, AdaptiveExponential(tol, tol * 1e-4)) for tol in (1e-5, 1e-7))
    error = (coarse - fine).abs() / fine.abs().amax((0, 1))
    assert error.max() < 1e-4


def test_damping_alone_is_exact_in_a_handful_of_steps():
    func = DampedODEFunc(lambda x: torch.zeros_like(x), Constant(1e4))
    x = torch.ones(2, 3, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 1e-4, 2e-4], dtype=torch.float64), AdaptiveExponential())
    torch.testing.assert_close(s.x[1:, 0, 0], torch.exp(torch.tensor([-1.0, -2.0], dtype=torch.float64)))
    assert s.accepted.max() < 8


def test_calls_of_f_hardly_grow_with_damping():
    """What dopri5 needs grows like λ: 3.3 steps of six calls for every unit of λt."""
    calls = []
    for lam in (10.0, 1e4):
        func = DampedODEFunc(Forced(8), Constant(lam))
        with torch.no_grad():
            s = solve(
                func, torch.randn(2, 8, dtype=torch.float64), torch.tensor([0.0, 1.0]), AdaptiveExponential(1e-5, 1e-9)
            )
        calls.append(s.nfe.max().item())
    assert calls[1] < 10 * calls[0]
    assert calls[1] < 1e4 * 6 / 3.3 / 50


def test_without_damping_a_step_is_classical_runge_kutta():
    func = DampedODEFunc(Forced(3), Constant(0.0))
    x, h = torch.randn(2, 3, dtype=torch.float64), 0.1
    k1 = func(0.0, x)
    k2 = func(h / 2, x + h / 2 * k1)
    k3 = func(h / 2, x + h / 2 * k2)
    k4 = func(h, x + h * k3)
    one = AdaptiveExponential(rtol=1.0, atol=1.0, first_step=h)
    torch.testing.assert_close(one(func, x, 0.0, h), x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), rtol=1e-13, atol=1e-13)


def test_f_is_called_inside_the_span_and_at_the_nodes():
    f = Times()
    s = solve(
        DampedODEFunc(f, Constant(1.0)),
        torch.zeros(3, 2, dtype=torch.float64),
        torch.tensor([0.5, 2.0]),
        AdaptiveExponential(),
    )
    assert s.nfe.tolist() == [len(f.calls)] * 3
    del f.calls[10], f.calls[-1]  # of the probes that look for samples which depend on one another
    calls = torch.stack(f.calls[2:]).unflatten(0, (-1, 4))  # (attempt, stage, N), after N1 and the first step's length
    assert calls.min() >= 0.5
    assert calls.max() <= 2.0
    assert torch.equal(calls[:, 0], calls[:, 1])
    assert torch.equal(calls[:, 2], calls[:, 3])
    assert (calls[:, 0] <= calls[:, 2]).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 4)])
@pytest.mark.parametrize("lam", ["scalar", "per sample", "full", "gated"])
def test_state_and_damping_shapes(shape, lam, dtype):
    x = torch.randn(3, *shape, dtype=dtype)
    damping = {
        "scalar": lambda: Constant(2.0),
        "per sample": lambda: Constant(torch.rand(3, *[1] * len(shape))),
        "full": lambda: Constant(torch.rand(3, *shape)),
        "gated": lambda: Gated(shape[0] if shape else 1),
    }[lam]()
    if lam == "gated" and not shape:
        return
    func = DampedODEFunc(torch.sin, damping.to(dtype))
    t = torch.linspace(0.0, 1.0, 4)
    s = solve(func, x, t, AdaptiveExponential())
    assert s.x.shape == (4, *x.shape)
    assert s.x.dtype == dtype
    assert s.status == (Status.SUCCESS,) * 3
    for count in (s.nfe, s.accepted, s.rejected):
        assert (count.shape, count.dtype) == ((3,), torch.int64)
    double = odeint(func.double(), x.double(), t.double(), TIGHT)
    torch.testing.assert_close(s.x.double(), double, rtol=2e-3, atol=2e-4)


def test_gradients_match_a_tight_reference_and_finite_differences():
    func = DampedODEFunc(Forced(3), Learned(0.5, 20.0, shape=(3,)).double())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t, wanted = torch.linspace(0, 1, 4, dtype=torch.float64), (x, *func.parameters())

    def loss(integrator):
        return odeint(func, x, t, integrator).square().sum()

    tight = torch.autograd.grad(loss(TIGHT), wanted)
    for got, want in zip(torch.autograd.grad(loss(AdaptiveExponential(1e-6, 1e-8)), wanted), tight, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for tensor, grad in zip(wanted, tight, strict=True):
        with torch.no_grad():
            flat, eps = tensor.view(-1), 1e-5
            flat[0] += eps
            up = loss(TIGHT)
            flat[0] -= 2 * eps
            down = loss(TIGHT)
            flat[0] += eps
        assert (up - down).item() / (2 * eps) == pytest.approx(grad.flatten()[0].item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_a_solve(dtype):
    func, x = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(2.0)), torch.ones(2, 3)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        y = AdaptiveExponential(1e-2, 1e-2)(func, x, 0.0, 1.0)
    torch.testing.assert_close(y, AdaptiveExponential()(func, x, 0.0, 1.0).detach(), rtol=0.02, atol=0.02)
