"""ExponentialAdams: order, accuracy, batches, gradients, jumps, statuses, host reads."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, Jumps, odeint, solve
from dampode.damping import Constant, Damping, Gated, Learned
from dampode.integrators import AdaptiveExponential, ExponentialAdams, Status
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.exponential.adams_plan import plan_step, sample_damping
from dampode.integrators.exponential.adams_step import first_history, moved_history, try_step
from dampode.integrators.exponential.moments import MAX_ORDER
from dampode.integrators.exponential.multistep_weights import Nodes
from dampode.integrators.splitting import Splitting
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.integrators.tolerance import Tolerance
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced, dop853

TIGHT = ExponentialAdams(rtol=1e-9, atol=1e-12)


def reference(func, x, t):
    dense = dop853(func, x, t[0].item(), t[-1].item()).sol
    return torch.stack([torch.from_numpy(dense(s)).view(x.shape) for s in t.tolist()])


@torch.no_grad()
def fixed_steps(func, exact, order, steps, span):
    """The largest error of a fixed order with equal steps, from exact values at the first nodes."""
    h, slots = span / steps, MAX_ORDER + 2
    size = len(exact(0.0))
    x = exact(order * h - h)
    splitting = Splitting(func, 0.0, x, CallCounter(x))
    past = [splitting.nonlinear(torch.full((size, 1), n * h, dtype=x.dtype), exact(n * h)) for n in range(order)]
    history = first_history(splitting, x, past[0], slots)
    for n, value in enumerate(past):
        history.values[:, n] = value
    times, worst = np.zeros((size, slots)), 0.0
    times[:, :order] = h * np.arange(order)
    none = np.zeros(size, dtype=bool)
    for n in range(order - 1, steps):
        newest = np.full(size, n % slots)
        begin = np.full(size, n * h)
        count = np.full(size, order)
        nodes = Nodes(times.copy(), newest, count, count, begin, begin + h)
        planned = plan_step(nodes, nodes.end, 1.0, sample_damping(splitting, x), none, none, x)
        tried = try_step(splitting, history, planned.plan, Tolerance(1.0, 1.0))
        slot, sample = (newest + 1) % slots, np.arange(size)
        history = moved_history(history, tried, splitting.lam, torch.from_numpy(slots * sample + slot), None)
        times[sample, slot] = nodes.end
        worst = max(worst, (history.x - exact((n + 1) * h)).abs().max().item())
    return worst


@pytest.mark.parametrize("order", range(1, MAX_ORDER))
def test_order_at_fixed_order_uniformly_in_damping(order):
    """With a predictor of order k, the largest error over all λ falls as h^{k+1}."""
    counts = (32, 64) if order > 4 else (64, 128)
    errors = dict.fromkeys(counts, 0.0)
    for lam in (0.0, 5.0, 100.0, 1e4):
        func, x = DampedODEFunc(Forced(3), Constant(lam)), torch.ones(2, 3, dtype=torch.float64)
        start = odeint(func, x, torch.tensor([-1.0, 0.0], dtype=torch.float64), TIGHT)[-1]  # past the transient
        fine = odeint(func, start, torch.arange(129, dtype=torch.float64) / 128, ExponentialAdams(1e-12, 1e-14))

        def exact(t, fine=fine):
            return fine[round(128 * t)]

        for steps in counts:
            errors[steps] = max(errors[steps], fixed_steps(func, exact, order, steps, 1.0))
    assert math.log2(errors[counts[0]] / errors[counts[1]]) > order + 1 - 0.6


@pytest.mark.parametrize("rho", [unit, one_plus])
@pytest.mark.parametrize("lam", [0.0, 1.0, 30.0])
def test_tolerance_bounds_the_error_along_the_trajectory(lam, rho):
    func = DampedODEFunc(Forced(4, lipschitz=2.0), Constant(lam), rho)
    x, t = torch.randn(3, 4, dtype=torch.float64), torch.linspace(0.0, 2.0, 17, dtype=torch.float64)
    exact = reference(func, x, t)
    for tol in (1e-3, 1e-5, 1e-7):
        with torch.no_grad():
            found = odeint(func, x, t, ExponentialAdams(tol, tol * 1e-2))
        assert 0.01 * tol < (found - exact).abs().max().item() / exact.abs().max().item() < 10 * tol


def test_fewer_calls_than_the_pair_at_any_damping():
    for lam in (0.0, 10.0, 1e4):
        func, x = DampedODEFunc(Forced(8), Constant(lam)), torch.randn(4, 8, dtype=torch.float64)
        t = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
        with torch.no_grad():
            ours, pair = (solve(func, x, t, kind(1e-6, 1e-10)) for kind in (ExponentialAdams, AdaptiveExponential))
        assert ours.nfe.max() < 0.6 * pair.nfe.max()


class Rising(Damping):
    """λ = 1 + 3 t, per sample."""

    depends_on_state = False
    depends_on_time = True

    def forward(self, t, x):
        return 1.0 + 3.0 * torch.as_tensor(t, dtype=x.dtype)


DAMPINGS = {
    "scalar": lambda: Constant(2.0),
    "per sample": lambda: Constant(torch.tensor([[0.5], [2.0], [20.0]])),
    "per channel": lambda: Constant(torch.tensor([0.0, 1.0, 1e3])),
    "full": lambda: Constant(torch.rand(3, 3)),
    "gated": lambda: Gated(3),
    "time": Rising,
    "learned": lambda: Learned(0.5, 20.0, shape=(3,)),
}


@pytest.mark.parametrize("kind", DAMPINGS)
def test_every_damping_agrees_with_the_pair(kind):
    func = DampedODEFunc(Forced(3), DAMPINGS[kind]().double())
    x, t = torch.randn(3, 3, dtype=torch.float64, requires_grad=True), torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    wanted = (x, *func.parameters())

    def solved(integrator):
        xs = odeint(func, x, t, integrator)
        return xs.detach(), torch.autograd.grad(xs.square().sum(), wanted)

    want, want_grads = solved(AdaptiveExponential(1e-9, 1e-12))
    for integrator in (TIGHT, ExponentialAdams(1e-9, 1e-12, recompute=4)):
        got, grads = solved(integrator)
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
        for grad, expected in zip(grads, want_grads, strict=True):
            torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


def test_second_derivatives_agree_with_the_pair():
    func = DampedODEFunc(Forced(2), Learned(0.3, 0.9, shape=(2,)).double(), one_plus)
    x = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)

    def curvature(integrator):
        (grad,) = torch.autograd.grad(integrator(func, x, 0.0, 0.5).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, *func.parameters()), allow_unused=True)

    pairs = zip(curvature(ExponentialAdams(1e-9, 1e-11)), curvature(AdaptiveExponential(1e-9, 1e-11)), strict=True)
    for got, want in pairs:
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_times_of_each_sample_and_jumps():
    """Each sample has its own times and one jump, x <- 2x; so does a solve of it alone from jump to jump."""
    func, x = DampedODEFunc(Forced(2), Constant(3.0)), torch.randn(2, 2, dtype=torch.float64)
    t = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.7, 1.5]], dtype=torch.float64)
    at = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    for recompute in (None, 3):
        found = odeint(
            func, x, t, ExponentialAdams(1e-9, 1e-12, recompute=recompute), jumps=Jumps(at, lambda j, x: 2 * x)
        )
        for n in range(2):
            before = TIGHT(func, x[n : n + 1], t[n, 0].item(), at[n, 0].item())
            grid = torch.unique(torch.cat((at[n], t[n][t[n] > at[n]])))
            after = odeint(func, 2 * before, grid, TIGHT)
            torch.testing.assert_close(found[-1, n], after[-1, 0], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found[1, 1], 2 * TIGHT(func, x[1:], 0.2, 0.7)[0], rtol=1e-7, atol=1e-9)


def test_a_stiff_field_stays_stable():
    func = DampedODEFunc(lambda x: -300 * (x - 1), Constant(0.0))
    with pytest.warns(StiffnessWarning, match=r"f itself is stiff: .* > 1\.2, .*use KenCarp4"):
        s = solve(func, torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0.0, 5.0]), ExponentialAdams(1e-4, 1e-6))
    assert s.status == (Status.SUCCESS,) * 2
    torch.testing.assert_close(s.x[-1], torch.ones(2, 2, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_a_boundary_of_the_domain_is_reported_for_its_sample():
    """x' = √(1 − x) + x reaches x = 1, where f ends, in the first sample only."""
    func = DampedODEFunc(lambda x: torch.sqrt(1 - x) + x, Constant(0.0))
    x = torch.tensor([[0.5], [-9.0]], dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 0.7]), ExponentialAdams())
    assert s.status == (Status.NOT_FINITE, Status.SUCCESS)
    assert torch.isfinite(s.x[:, 1]).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 4)])
def test_state_shapes(shape, dtype):
    x = torch.randn(3, *shape, dtype=dtype)
    func, t = (
        DampedODEFunc(torch.sin, Constant(torch.rand(3, *[1] * len(shape))).to(dtype)),
        torch.linspace(0.0, 1.0, 4),
    )
    s = solve(func, x, t, ExponentialAdams())
    assert (s.x.shape, s.x.dtype) == ((4, *x.shape), dtype)
    assert s.status == (Status.SUCCESS,) * 3
    double = odeint(func.double(), x.double(), t.double(), TIGHT)
    torch.testing.assert_close(s.x.double(), double, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("settings", "message"), [({"max_order": 0}, "positive"), ({"max_order": 9}, "at most 8")])
def test_max_order_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        ExponentialAdams(**settings)


@pytest.mark.slow
def test_compiled_is_the_same():
    func, x = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(2.0)), torch.randn(4, 3)
    func, x = func.double(), x.double()  # rounding in float32 can change an order, and with it the steps
    t = torch.linspace(0.0, 1.0, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            odeint(func, x, t, ExponentialAdams(compile=True)), odeint(func, x, t, ExponentialAdams())
        )


@pytest.mark.parametrize("kind", ["scalar", "per channel", "gated"])
def test_autocast_is_for_f_only(kind):
    """The solver's own sums keep float32: the answer is that of the same f rounded to bfloat16."""
    inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    damping, x, t = DAMPINGS[kind](), torch.randn(3, 3), torch.linspace(0.0, 1.0, 3)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            got = odeint(DampedODEFunc(inner, damping), x, t, ExponentialAdams(1e-3, 1e-4))
        want = odeint(DampedODEFunc(inner, damping), x, t, ExponentialAdams(1e-3, 1e-4))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.01)
    constant = DampedODEFunc(lambda x: torch.full_like(x, 0.3), Constant(torch.tensor([0.5, 1.0, 7.0])))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = odeint(constant, x, t, ExponentialAdams(1e-5, 1e-7))
    torch.testing.assert_close(got, odeint(constant, x, t, ExponentialAdams(1e-5, 1e-7)), rtol=1e-5, atol=1e-6)


def test_gradients_under_autocast_with_recomputation():
    inner, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    for recompute in (None, 2):
        with torch.autocast("cpu", torch.bfloat16):
            end = odeint(
                DampedODEFunc(inner, Constant(1.0)), x, torch.tensor([0.0, 1.0]), ExponentialAdams(recompute=recompute)
            )
        (gradient,) = torch.autograd.grad(end.sum(), x)
        assert torch.isfinite(gradient).all()
        assert not torch.is_autocast_enabled("cpu")


def test_settings_that_round_products_change_nothing(monkeypatch):
    func, x, t = DampedODEFunc(Forced(3), Constant(2.0)).float(), torch.randn(2, 3), torch.linspace(0.0, 1.0, 3)
    want = odeint(func, x, t, ExponentialAdams())
    monkeypatch.setattr(torch, "bmm", lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    torch.set_float32_matmul_precision("medium")
    try:
        torch.testing.assert_close(odeint(func, x, t, ExponentialAdams()), want, rtol=1e-5, atol=1e-6)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_setting_by_torchs_newer_interface_changes_nothing():
    func, x, t = DampedODEFunc(Forced(3), Constant(2.0)).float(), torch.randn(2, 3), torch.linspace(0.0, 1.0, 3)
    want = odeint(func, x, t, ExponentialAdams())
    before, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "bf16"
    try:
        torch.testing.assert_close(odeint(func, x, t, ExponentialAdams()), want, rtol=1e-5, atol=1e-6)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
