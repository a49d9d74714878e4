"""The solution as a function of time: its values, its order, its gradients, and its refusals."""

import pytest
import torch

from dampode import DampedODEFunc, Jumps, odeint, solve
from dampode.damping import Constant, Gated
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    HochbruckOstermann3,
    HochbruckOstermann4,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    TorchDiffEq,
)
from tests.helpers.oracles import Forced

NAN = float("nan")
TIGHT = AdaptiveExponential(1e-10, 1e-12)
ALL = [
    AdaptiveExponential(1e-7, 1e-9),
    KenCarp4(1e-6, 1e-8),
    ExponentialAdams(1e-7, 1e-9),
    Krogstad4(40),
    ExponentialEuler(50),
]
names = {"ids": lambda i: type(i).__name__}


def problem(lam=1.5):
    torch.manual_seed(0)
    return DampedODEFunc(Forced(3), Constant(lam)), torch.randn(3, 3, dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
@pytest.mark.parametrize("integrator", ALL, **names)
def test_the_function_meets_the_states_and_the_flow(integrator, sign):
    func, x = problem()
    t = sign * tensor(0.0, 0.4, 2.0)
    s = solve(func, x, t, integrator, dense=True)
    torch.testing.assert_close(s.at(t), s.x, rtol=1e-9, atol=1e-9)
    between = sign * tensor(1.7, 0.0, 0.1, 2.0, 0.5)
    exact = [odeint(func, x, torch.stack((t[0], u)), TIGHT)[-1] if u else x for u in between]
    loose = 0.05 if isinstance(integrator, ExponentialEuler) else 1e-4
    torch.testing.assert_close(s.at(between), torch.stack(exact), rtol=loose, atol=loose)
    torch.testing.assert_close(s.at(sign * 0.5), s.at(between)[-1])
    own = torch.stack((between, between.flip(0), between / 2))
    torch.testing.assert_close(s.at(own)[:, 1], s.at(between.flip(0))[:, 1])
    padded = torch.cat((own, torch.full((3, 1), NAN)), 1)
    torch.testing.assert_close(s.at(padded)[-1], s.at(own)[-1])


@pytest.mark.parametrize("integrator", ALL, **names)
def test_it_is_continuous_across_steps(integrator):
    func, x = problem()
    s = solve(func, x, tensor(0.0, 2.0), integrator, dense=True)
    assert s.dense is not None
    inner = s.dense.ends[:, :-1].clamp(1e-6, 2 - 1e-6)
    apart = s.at(inner + 1e-9) - s.at(inner - 1e-9)
    bound = 1e-5 if isinstance(integrator, AdaptiveExponential) else 1e-7
    assert apart.abs().max() < bound


@pytest.mark.parametrize(
    ("integrator", "order"), [(LinearizedEuler, 1), (HochbruckOstermann3, 3), (HochbruckOstermann4, 4), (Krogstad4, 4)]
)
@pytest.mark.parametrize("gated", [False, True], ids=["constant", "gated"])
def test_a_fixed_step_has_the_order_of_its_method(integrator, order, gated):
    func, x = problem()
    if gated:
        torch.manual_seed(1)
        func = DampedODEFunc(Forced(3), Gated(3)).double()
    span, t = tensor(0.0, 1.0), torch.linspace(0, 1, 37, dtype=torch.float64)
    exact = odeint(func, x, t, TIGHT)
    errors = [(solve(func, x, span, integrator(n), dense=True).at(t) - exact).abs().max() for n in (8, 16)]
    assert (errors[0] / errors[1]).log2() > order - 0.35


@pytest.mark.parametrize("integrator", [AdaptiveExponential(1e-4, 1e-6), ExponentialAdams(3e-5, 1e-6)], **names)
@pytest.mark.parametrize("lam", [0.0, 500.0])
def test_the_embedded_error_bounds_the_error_of_interpolation(lam, integrator):
    func, x = problem(lam)
    t = torch.linspace(0, 2, 41, dtype=torch.float64)
    s = solve(func, x, t[[0, -1]], integrator, dense=True)
    error, estimate = (s.at(t) - odeint(func, x, t, TIGHT)).abs(), s.error_at(t)
    assert estimate.shape == error.shape
    assert error.max() < 5e-4
    assert estimate.max() < 1e-3
    assert 0.02 * error[1:-1].mean() < estimate[1:-1].mean() < 100 * error[1:-1].mean()


@pytest.mark.parametrize("integrator", ALL[:3], **names)
def test_gradients(integrator):
    func, x = problem()
    x.requires_grad_()
    t = tensor(0.3, 0.9, 1.4).requires_grad_()
    states = solve(func, x, tensor(0.0, 2.0), integrator, dense=True).at(t)
    fixed = odeint(func, x, torch.cat((tensor(0.0), t)), TIGHT)[1:]
    weight = torch.randn_like(states)
    inputs = [x, t, *func.parameters()]
    got, exact = (torch.autograd.grad((weight * v).sum(), inputs) for v in (states, fixed))
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("integrator", ALL, **names)
def test_times_and_jumps_of_each_sample(integrator):
    func, x = problem()
    t = tensor([0.0, 1.0, NAN], [0.5, 0.9, 2.0], [1.0, NAN, NAN])
    jumps = Jumps(tensor([0.3], [0.7], [NAN]), lambda j, x: x + 1)
    s = solve(func, x, t, integrator, jumps=jumps, dense=True)
    at = tensor([0.0, 0.3, 0.3 - 1e-12], [0.7 - 1e-12, 0.7, 2.0], [1.0, NAN, NAN])
    states = s.at(at)
    torch.testing.assert_close(states[2, 0] + 1, states[1, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(states[0, 1] + 1, states[1, 1], rtol=1e-5, atol=1e-5)
    assert torch.equal(states[:, 2], x[2].expand(3, -1))
    assert torch.equal(states[2, 1], s.x[2, 1])
    with pytest.raises(
        ValueError, match=r"t must lie inside the solve, got 1\.5 for sample 0, which was solved from 0 to 1"
    ):
        s.at(1.5)


def test_images_and_a_sample_that_fails():
    func = DampedODEFunc(lambda x: x**2, Constant(torch.zeros(2, 1, 1)))
    x = torch.ones(2, 2, 2, 3) * torch.tensor([0.1, 1.0])[:, None, None, None]
    s = solve(func, x, torch.tensor([0.0, 2.0]), dense=True)
    states = s.at(torch.tensor([0.5, 1.5, 2.0]))
    assert states.shape == (3, 2, 2, 2, 3)
    torch.testing.assert_close(
        states[:, 0, 0, 0, 0], 0.1 / (1 - 0.1 * torch.tensor([0.5, 1.5, 2.0])), rtol=1e-3, atol=0
    )
    assert states[0, 1, 0, 0, 0].item() == pytest.approx(2.0, rel=1e-2)
    assert torch.isnan(states[1:, 1]).all()


def test_refusals():
    func, x = problem()
    t = tensor(0.0, 1.0)
    with pytest.raises(ValueError, match=r"kept only on request: call solve\(..., dense=True\)"):
        solve(func, x, t).at(0.5)
    s = solve(func, x, t, dense=True)
    for bad in (-0.1, 1.1, tensor(0.5, 2.0)):
        with pytest.raises(ValueError, match="t must lie inside the solve, got"):
            s.at(bad)
    with pytest.raises(ValueError, match=r"t must be a number, \(M,\) or \(N, M\) with N = 3 samples"):
        s.at(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="t must be finite"):
        s.at(tensor(float("inf")))
    with pytest.raises(TypeError, match="t must be of type float or int or Tensor, got str"):
        s.at("now")
    for integrator in (
        TorchDiffEq(),
        Krogstad4(4, recompute=2),
        AdaptiveExponential(recompute=2),
        ExponentialAdams(recompute=2),
    ):
        with pytest.raises(ValueError, match="gives no solution as a function of time, got dense=True"):
            solve(func, x, t, integrator, dense=True)
    with pytest.raises(ValueError, match="has no embedded error; take ExponentialAdams"):
        solve(func, x, t, Krogstad4(4), dense=True).error_at(0.5)
