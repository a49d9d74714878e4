"""What both adaptive exponential integrators share."""

import pytest
import torch

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.integrators import AdaptiveExponential, ExponentialAdams, Status
from dampode.integrators.to_tolerance import TolerantIntegrator
from tests.helpers.oracles import Forced

both = pytest.mark.parametrize("method", [AdaptiveExponential, ExponentialAdams])


@both
@pytest.mark.parametrize("lam", [0.0, 2.0, 1e3, 1e6])
def test_linear_problem_with_exact_answer(method, lam):
    """x' = −λx + μx + c: x(t) = e^{(μ−λ)t} x0 + c (e^{(μ−λ)t} − 1)/(μ−λ)."""
    mu, c, t = -0.5, 0.8, torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None]
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    func = DampedODEFunc(lambda x: mu * x + c, Constant(lam))
    got = odeint(func, x, t.flatten(), method(1e-8, 1e-12))
    rate = mu - lam
    torch.testing.assert_close(got, torch.exp(rate * t) * x + c * torch.expm1(rate * t) / rate, rtol=1e-6, atol=1e-10)


@both
def test_batch_mates_do_not_influence_one_another(method):
    func = DampedODEFunc(lambda x: 5 * torch.sin(x * x), Constant(1.0))
    x = torch.cat((torch.full((1, 2), 8.0), torch.randn(7, 2))).double()
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    together = solve(func, x, t, method())
    for n in range(len(x)):
        alone = solve(func, x[n : n + 1], t, method())
        torch.testing.assert_close(together.x[:, n : n + 1], alone.x, rtol=1e-12, atol=1e-13)
        assert together.accepted[n] == alone.accepted[0]
        assert together.nfe[n] == alone.nfe[0]
    assert together.accepted[1:].float().mean() < together.accepted[0] / 1.5


@both
def test_decreasing_times_return_to_the_start(method):
    func, x, tight = (
        DampedODEFunc(Forced(3), Constant(2.0)),
        torch.randn(2, 3, dtype=torch.float64),
        method(1e-9, 1e-12),
    )
    there = odeint(func, x, torch.tensor([0.0, 1.0], dtype=torch.float64), tight)[-1]
    back = odeint(func, there, torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64), tight)
    torch.testing.assert_close(back[-1], x, rtol=1e-6, atol=1e-7)
    between = odeint(func, x, torch.tensor([0.0, 0.4], dtype=torch.float64), tight)[-1]
    torch.testing.assert_close(back[1], between, rtol=1e-6, atol=1e-7)


@both
@pytest.mark.parametrize("first_step", [0.04, 5.0])
def test_gradients_survive_a_rejected_overflow(method, first_step, monkeypatch):
    """The first attempt may overflow in one sample: its values must not reach the gradient as 0 · inf."""
    func = DampedODEFunc(lambda x: torch.exp(x) - 1, Constant(1.0))
    x = torch.tensor([[3.0], [0.01]], requires_grad=True)
    monkeypatch.setattr(TolerantIntegrator, "_first_step", lambda _, loop: torch.full_like(loop.tau, first_step))
    s = solve(func, x, torch.tensor([0.0, 0.045]), method())
    assert s.status == (Status.SUCCESS,) * 2
    (gradient,) = torch.autograd.grad(s.x[-1].sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("method", "reads", "allowed"),
    [
        (AdaptiveExponential, ("tolist", "item", "__bool__"), lambda s: (s.accepted + s.rejected).max() + 15),
        (ExponentialAdams, ("cpu",), lambda s: s.nfe.max() + 10),
    ],
)
def test_one_host_sync_a_step(method, reads, allowed, monkeypatch):
    """One value is read from the device per attempt, whatever the number of output times.

    ExponentialAdams keeps the values of its samples on the CPU and copies its reports there.
    """
    found = []
    for name in reads:
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, f=original: found.append(1) or f(self))
    func, x = DampedODEFunc(Forced(2), Constant(1.0)), torch.ones(4, 2, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 20.0]), method(1e-6, 1e-8))
    count = len(found)
    assert count <= allowed(s)
