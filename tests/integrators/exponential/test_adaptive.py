import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint, solve
from dampode.damping import Constant, Damping, Gated, Learned
from dampode.fields import VectorField
from dampode.functional import phis
from dampode.integrators import AdaptiveExponential, IntegrationError, KenCarp4, Status
from dampode.integrators.exponential.dense_output import DenseOutput, Interpolant
from dampode.integrators.exponential.error_estimate import (
    CurveChange,
    change_of_curve,
    error_estimate,
    jacobian_growth,
    third_difference,
)
from dampode.integrators.exponential.step import initial_state
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import GiveUp
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


class Raw(Damping):
    """λ as given, unchecked: what a user's own damping may do."""

    depends_on_state = False

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value.to(x)


class Falling(Damping):
    """λ(x) = 0.2 − |x|, which a growing state makes negative."""

    depends_on_state = True

    def forward(self, x):
        return 0.2 - x.abs()


# accuracy ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("lam", [0.0, 2.0, 1e3, 1e6])
def test_linear_problem_with_exact_answer(lam):
    """x' = −λx + μx + c: x(t) = e^{(μ−λ)t} x0 + c (e^{(μ−λ)t} − 1)/(μ−λ)."""
    mu, c, t = -0.5, 0.8, torch.linspace(0, 1, 5, dtype=torch.float64)[:, None, None]
    x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    func = DampedODEFunc(lambda x: mu * x + c, Constant(lam))
    got = odeint(func, x, t.flatten(), AdaptiveExponential(1e-7, 1e-12))
    rate = mu - lam
    torch.testing.assert_close(got, torch.exp(rate * t) * x + c * torch.expm1(rate * t) / rate, rtol=1e-6, atol=1e-10)


def test_damping_alone_is_exact_in_a_handful_of_steps():
    func = DampedODEFunc(lambda x: torch.zeros_like(x), Constant(1e4))
    x = torch.ones(2, 3, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 1e-4, 2e-4], dtype=torch.float64))
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


def test_error_estimate_sees_f_of_t_alone():
    """A field of t alone makes the stages agree; the steps must shrink with its frequency all the same."""

    class Wave(VectorField):
        def forward(self, t, x):
            return torch.sin(40 * t) * torch.ones_like(x)

    x, t = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for lam in (0.0, 1e3):
        s = solve(DampedODEFunc(Wave(), Constant(lam)), x, t, AdaptiveExponential(1e-6, 1e-9))
        exact = (lam * torch.sin(40 * t[1]) - 40 * torch.cos(40 * t[1]) + 40 * torch.exp(-lam * t[1])) / (lam**2 + 1600)
        assert abs(s.x[-1, 0, 0] - exact) < 1e-6 * max(1.0, exact.abs().item()) + 1e-8
        assert s.accepted > 20


def test_error_estimate_sees_where_rho_f_undoes_the_damping():
    """x' = −λx + μλx: over long steps what the stages disagree by is damped by λ(1 − μ), not by λ."""
    mu, z = torch.tensor([-1, 0.1, 0.5, 0.9, 0.99, 0.9999]).double(), torch.tensor([1, 10, 100, 1e3, 1e4, 1e6]).double()
    lam, mu = z.repeat(len(mu))[:, None], mu.repeat_interleave(len(z))[:, None]
    x, h = torch.ones_like(lam), torch.ones_like(lam)
    splitting = Splitting(DampedODEFunc(lambda x: mu * lam * x, Constant(lam)), x)
    step = krogstad_step(splitting, x, splitting.nonlinear(0.0, x), (h / 2, h), h)
    n5, unchanged = splitting.nonlinear(h, step.x), CurveChange(torch.zeros_like(x), torch.zeros_like(x))
    ratio = error_estimate(step, n5, unchanged, splitting.lam, h).abs() / (step.x - torch.exp(-lam * (1 - mu))).abs()
    assert ratio.min() > 1 / 50
    assert ratio.max() < 10
    u = jacobian_growth(step, n5 - step.n4, splitting.lam, h)
    torch.testing.assert_close(u, (2 + lam) / (2 + lam * (1 - mu.clamp(min=0))), rtol=1e-6, atol=0.0)
    assert (ratio / u).min() < 1e-4  # what the estimate would be without
    assert torch.equal(jacobian_growth(step, n5 - step.n4, splitting.lam, -h), torch.ones_like(x))


@pytest.mark.parametrize("lam", [0.0, 3.0, 500.0])
def test_dense_output_is_of_order_three(lam):
    func, x = DampedODEFunc(Forced(3), Constant(lam)), torch.randn(2, 3, dtype=torch.float64)
    middle = odeint(func, x, torch.tensor([0.0, 1.0], dtype=torch.float64), TIGHT)[-1]
    errors = []
    for h in (0.08, 0.04):
        t = 1.0 + torch.tensor([0.0, 0.3 * h, 0.7 * h, h], dtype=torch.float64)
        coarse = odeint(func, middle, t, AdaptiveExponential(1.0, 1.0, first_step=h))
        errors.append((coarse - odeint(func, middle, t, TIGHT))[1:3].abs().max().item())
    assert torch.tensor(errors[0] / errors[1]).log2() > 3.0  # h^4 locally where λh is small, h^3/λ where it is large


def test_dense_output_integrates_its_cubic():
    """x' = −λ x + N(θ), the cubic given, against SciPy's DOP853 at three times inside the step."""
    x, n1, slope, curve, cubic = torch.randn(5, 1, 3, dtype=torch.float64).unbind()
    lam, h = torch.tensor([0.0, 1.0, 40.0], dtype=torch.float64), 0.7

    def rhs(t, y):
        s = t / h
        n = n1 + s * (slope + cubic / 2) + s**2 * (curve - 1.5 * cubic) + s**3 * cubic
        return (n - lam * torch.from_numpy(y)).numpy()[0]

    times = [0.1, 0.4, 0.7]
    exact = solve_ivp(rhs, (0, h), x[0].numpy(), method="DOP853", rtol=1e-12, atol=1e-13, t_eval=times).y.T
    dense = DenseOutput(x, torch.tensor(times, dtype=torch.float64))
    step = torch.full((1, 1), h, dtype=torch.float64)
    dense.add(Interpolant(x, n1, slope, curve, cubic, lam, step, step.reshape(-1)))
    torch.testing.assert_close(dense.states()[:, 0], torch.from_numpy(exact.copy()), rtol=1e-9, atol=1e-10)


def test_cubic_is_the_third_derivative_of_n():
    """N(t) = t³ sampled by two steps of different lengths: D = h³ N‴ / 6 = h³; and none behind the first step."""

    def curve(t, h):
        return torch.tensor([[2 * (t**3 - 2 * (t + h / 2) ** 3 + (t + h) ** 3)]], dtype=torch.float64)

    h = torch.tensor([[0.5]], dtype=torch.float64)
    last_h, one = torch.tensor([[0.2]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    change = change_of_curve(curve(1.2, 0.5), h, curve(1.0, 0.2), last_h)
    torch.testing.assert_close(third_difference(change), h**3)
    first = initial_state(one, one, 0 * one)
    change = change_of_curve(curve(1.2, 0.5), h, first.last_curve, first.last_h)
    assert torch.equal(third_difference(change), 0 * one)


def test_dense_output_meets_the_step_at_its_end():
    x, n1, slope, curve = torch.randn(4, 2, 3, dtype=torch.float64).unbind()
    h, lam = torch.full((2, 1), 0.3, dtype=torch.float64), torch.tensor([0.0, 1.0, 9.0], dtype=torch.float64)
    dense = DenseOutput(x, torch.tensor([0.3], dtype=torch.float64))
    dense.add(Interpolant(x, n1, slope, curve, torch.zeros_like(x), lam, h, h.reshape(-1)))
    e, p1, p2, p3 = phis(-lam * h)
    torch.testing.assert_close(dense.states()[0], e * x + h * (p1 * n1 + p2 * slope + 2 * p3 * curve))


def test_output_times_cost_no_calls():
    func, x = DampedODEFunc(Forced(3), Constant(2.0)), torch.randn(2, 3, dtype=torch.float64)
    two, many = (solve(func, x, torch.linspace(0, 2, n, dtype=torch.float64)) for n in (2, 301))
    assert torch.equal(two.nfe, many.nfe)
    assert torch.equal(two.x[-1], many.x[-1])
    assert many.x.shape == (301, 2, 3)
    assert torch.equal(many.x[0], x)


def test_decreasing_times_return_to_the_start():
    func, x = DampedODEFunc(Forced(3), Constant(2.0)), torch.randn(2, 3, dtype=torch.float64)
    there = odeint(func, x, torch.tensor([0.0, 1.0], dtype=torch.float64), TIGHT)[-1]
    back = odeint(func, there, torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64), TIGHT)
    torch.testing.assert_close(back[-1], x, rtol=1e-6, atol=1e-7)
    between = odeint(func, x, torch.tensor([0.0, 0.4], dtype=torch.float64), TIGHT)[-1]
    torch.testing.assert_close(back[1], between, rtol=1e-6, atol=1e-7)


def test_f_is_called_inside_the_span_and_at_the_nodes():
    f = Times()
    s = solve(DampedODEFunc(f, Constant(1.0)), torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0.5, 2.0]))
    calls = torch.stack(f.calls[2:]).unflatten(0, (-1, 4))  # (attempt, stage, N), after N1 and the probe
    assert calls.min() >= 0.5
    assert calls.max() <= 2.0
    assert torch.equal(calls[:, 0], calls[:, 1])
    assert torch.equal(calls[:, 2], calls[:, 3])
    assert (calls[:, 0] <= calls[:, 2]).all()
    assert s.nfe.tolist() == [len(f.calls)] * 3


# batch ---------------------------------------------------------------------------------------------------------


def test_batch_mates_do_not_influence_one_another():
    func = DampedODEFunc(lambda x: 5 * torch.sin(x * x), Constant(1.0))
    x = torch.cat((torch.full((1, 2), 8.0), torch.randn(7, 2))).double()
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    together = solve(func, x, t)
    for n in range(len(x)):
        alone = solve(func, x[n : n + 1], t)
        torch.testing.assert_close(together.x[:, n : n + 1], alone.x, rtol=1e-12, atol=1e-13)
        assert together.accepted[n] == alone.accepted[0]
        assert together.nfe[n] == alone.nfe[0]
    assert together.accepted[1:].float().mean() < together.accepted[0] / 1.5


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
    s = solve(func, x, t)
    assert s.x.shape == (4, *x.shape)
    assert s.x.dtype == dtype
    assert s.status == (Status.SUCCESS,) * 3
    for count in (s.nfe, s.accepted, s.rejected):
        assert (count.shape, count.dtype) == ((3,), torch.int64)
    double = odeint(func.double(), x.double(), t.double(), TIGHT)
    torch.testing.assert_close(s.x.double(), double, rtol=2e-3, atol=2e-4)


# gradients -----------------------------------------------------------------------------------------------------


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


def test_gradients_survive_a_rejected_overflow():
    """The first attempt overflows in one sample: its values must not reach the gradient as 0 · inf."""
    func = DampedODEFunc(lambda x: torch.exp(x) - 1, Constant(1.0))
    x = torch.tensor([[3.0], [0.01]], requires_grad=True)
    block = DampedBlock(func.f, Constant(1.0), integrator=AdaptiveExponential(first_step=0.04), t_span=(0.0, 0.045))
    with torch.no_grad():
        overflowed = solve(func, x, torch.tensor([0.0, 0.045]), AdaptiveExponential(first_step=5.0))
    assert overflowed.status == (Status.SUCCESS,) * 2
    (gradient,) = torch.autograd.grad(block(x).sum(), x)
    assert torch.isfinite(gradient).all()


# failures ------------------------------------------------------------------------------------------------------


class NaNAfter(VectorField):
    """f = 1, NaN for the second sample after t = 0.5."""

    def forward(self, t, x):
        late = (torch.as_tensor(t) > 0.5).expand(len(x), 1).clone()
        late[0] = False
        return torch.where(late, torch.nan, 1.0).to(x)


def test_nan_from_f_names_sample_and_time():
    func, x = DampedODEFunc(NaNAfter(), Constant(1.0)), torch.zeros(2, 1, dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    s = solve(func, x, t)
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE)
    assert s.reached[1] == pytest.approx(0.5, abs=1e-3)
    assert torch.isfinite(s.x[:, 0]).all()
    assert torch.isfinite(s.x[:2, 1]).all()
    assert torch.isnan(s.x[3:, 1]).all()
    with pytest.raises(
        IntegrationError, match=r"1 of 2 samples failed, the first at index 1, at t = 0\.5.*NaN or infinite"
    ):
        odeint(func, x, t)


EDGES = {  # dx/dt = -x + f crosses x = 1/2 at log(2) / 2, and at about 0.3445
    "where": lambda x: torch.where(x < 0.5, torch.nan, -x),
    "sqrt": lambda x: -torch.sqrt(x - 0.5) - 0.3,
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4()], ids=repr)
def test_a_state_that_reaches_where_f_is_nan_is_given_up(integrator, edge, dtype):
    """Ever shorter steps went on to max_steps: each a part of the way that was left, and 10 times too long for it."""
    func, t = DampedODEFunc(EDGES[edge], Constant(1.0)), torch.linspace(0, 1, 5, dtype=torch.float64)
    x = torch.tensor([[100.0, 80.0], [1.0, 1.0], [50.0, 20.0]], dtype=dtype)
    s = solve(func, x, t, integrator)
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS)
    assert s.reached[1].item() == pytest.approx(0.3466 if edge == "where" else 0.3445, abs=2e-4)
    assert (s.accepted + s.rejected).max() < 500
    assert torch.isnan(s.x[2:, 1]).all()
    assert torch.isfinite(s.x[:2, 1]).all()
    alone = solve(func, x[::2], t, integrator)
    torch.testing.assert_close(s.x[:, ::2], alone.x, rtol=1e-5, atol=1e-5)
    assert (s.accepted[::2] - alone.accepted).abs().max() <= 1
    with pytest.raises(IntegrationError, match=r"the first at index 1, at t = 0\.34\d+: the state or f is NaN or inf"):
        odeint(func, x, t, integrator)


class AtRest(VectorField):
    """f(x, t) = 10⁸ t (2 − e^{kx}): x' = 0 at t = 0, where a step may yet be far too long."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, t, x):
        return 1e8 * t * (2 - torch.exp(self.k * x))

    def exact(self, t):
        return -math.log(0.5 + 0.5 * math.exp(-self.k * 1e8 * t * t)) / self.k


def sinh_field(t):
    return 2 * math.atanh(math.tanh(5) * math.exp(-t))


def gompertz(t):
    return math.exp(2 - 2 * math.exp(0.5 * t))


ENDURED = [  # dx/dt = f: an integrator, a field, x(0), the span, the first step, x(t)
    (AdaptiveExponential, lambda x: -torch.sinh(x), 10.0, 1.0, 1.0, sinh_field),
    (KenCarp4, lambda x: -torch.exp(x), 30.0, 1.0, 1.0, lambda t: -math.log(t + math.exp(-30))),
    (AdaptiveExponential, AtRest(30), 0.0, 1e-3, 1e-3, AtRest(30).exact),
    (AdaptiveExponential, lambda x: 0.5 * x * torch.log(x) - x, 1.0, 6.0, None, gompertz),
    (KenCarp4, lambda x: 0.5 * x * torch.log(x) - x, 1.0, 6.0, None, gompertz),
]


@pytest.mark.parametrize(("integrator", "f", "start", "span", "first", "exact"), ENDURED)
def test_steps_that_were_only_too_long_give_no_sample_up(integrator, f, start, span, first, exact):
    """They overflow, or leave what f is defined on, which the trajectory never does."""
    func, x, lost = DampedODEFunc(f, Constant(0.0)), torch.full((1, 1), start, dtype=torch.float64), []
    func.f.register_forward_hook(lambda _, __, fx: lost.append(not bool(torch.isfinite(fx).all())))
    t = torch.linspace(0, span, 4, dtype=torch.float64)
    s = solve(func, x, t, integrator(1e-4, 1e-6, first_step=first))
    assert s.failure() is None
    assert any(lost)
    expected = torch.tensor([exact(now) for now in t[1:].tolist()], dtype=torch.float64)
    torch.testing.assert_close(s.x[1:, 0, 0], expected, rtol=2e-3, atol=2e-5)


def test_samples_are_given_up_that_lose_a_hundred_attempts_and_stay():
    tau, h = torch.zeros(3, 1, dtype=torch.float64), torch.full((3, 1), 0.5, dtype=torch.float64)
    lost, give_up = torch.tensor([[True], [True], [False]]), GiveUp(tau, torch.tensor(1.0))
    assert torch.equal(give_up.limited(2 * h, h), 2 * h)
    for n in range(1, 101):
        found = give_up.given_up(lost, tau)
        assert found.flatten().tolist() == [n == 100, False, False]
        tau = tau + torch.tensor([[1e-6], [1e-4], [0.0]], dtype=torch.float64)
    assert give_up.limited(2 * h, h).flatten().tolist() == [0.5, 0.5, 1.0]
    assert torch.equal(give_up.limited(2 * h, h), 2 * h)


def test_nan_at_the_start():
    x = torch.tensor([[1.0], [torch.nan]])
    assert solve(DampedODEFunc(torch.sin), x, torch.tensor([0.0, 1.0])).status[1] is Status.NOT_FINITE


def test_max_steps_spent():
    func, x = DampedODEFunc(Forced(2), Constant(1.0)), torch.ones(2, 2, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 10.0]), AdaptiveExponential(max_steps=3))
    assert s.status == (Status.MAX_STEPS,) * 2
    assert (s.accepted + s.rejected).tolist() == [3, 3]
    with pytest.raises(IntegrationError, match="max_steps were spent before the last time: raise max_steps, or loosen"):
        odeint(func, x, torch.tensor([0.0, 10.0]), AdaptiveExponential(max_steps=3))


def test_a_jump_that_no_step_resolves_underflows():
    func = DampedODEFunc(lambda x: torch.where(x > 0.5, -1e30, 1.0).to(x), Constant(0.0))
    s = solve(func, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0]), AdaptiveExponential(1e-10, 1e-12))
    assert s.status == (Status.STEP_UNDERFLOW,)


def test_negative_damping_is_named_per_sample():
    func = DampedODEFunc(torch.sin, Raw(torch.tensor([[1.0], [-1.0]])))
    s = solve(func, torch.ones(2, 1), torch.tensor([0.0, 1.0]))
    assert s.status == (Status.SUCCESS, Status.NEGATIVE_DAMPING)
    s = solve(DampedODEFunc(torch.ones_like, Falling()), torch.zeros(1, 1), torch.tensor([0.0, 1.0]))
    assert s.status == (Status.NEGATIVE_DAMPING,)


def test_anti_damping_that_overflows_is_refused_with_a_reason(dtype):
    func = DampedODEFunc(torch.sin, Constant(torch.tensor([[1.0], [1e3]], dtype=dtype)))
    s = solve(func, torch.ones(2, 1, dtype=dtype), torch.tensor([1.0, 0.0]))
    assert s.status == (Status.SUCCESS, Status.OVERFLOW)
    with pytest.raises(IntegrationError, match="backwards in time damping amplifies; shorten the time span"):
        odeint(func, torch.ones(2, 1), torch.tensor([1.0, 0.0]))


def test_every_status_says_what_to_do():
    assert all(s is Status.SUCCESS or any(w in s.value for w in (": ", "; ")) for s in Status)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rtol": 0.0}, "rtol must be above 0, got 0"),
        ({"atol": -1e-6}, "atol must be above 0, got -1e-06"),
        ({"rtol": float("nan")}, "rtol must be finite"),
        ({"max_steps": 0}, "max_steps must be a positive int, got 0"),
        ({"first_step": 0.0}, "first_step must be above 0"),
        ({"max_step": -1.0}, "max_step must be above 0, got -1"),
        ({"progress": 1}, "progress must be of type bool"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        AdaptiveExponential(**settings)


def test_progress_shows_a_bar(capsys):
    odeint(DampedODEFunc(torch.sin), torch.ones(1, 1), torch.tensor([0.0, 1.0]), AdaptiveExponential(progress=True))
    assert "1/1" in capsys.readouterr().err


def test_one_host_sync_a_step(monkeypatch):
    """Reading a value is Tensor.tolist, item or bool: once an attempt, whatever the number of output times."""
    reads = []
    for name in ("tolist", "item", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, f=original: reads.append(1) or f(self))
    func, x = DampedODEFunc(Forced(2), Constant(1.0)), torch.ones(4, 2, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 20.0]), AdaptiveExponential(1e-6, 1e-8))
    before, steps = len(reads), (s.accepted + s.rejected).max()
    assert before <= steps + 15


@pytest.mark.parametrize("integrator", [AdaptiveExponential, KenCarp4])
def test_a_longest_step_does_not_leap_over_a_pulse(integrator):
    """x' = −x + 10 in 5 < t < 5.2, which steps that grow tenfold where f is 0 pass over."""
    func = DampedODEFunc(Pulse(), Constant(1.0))
    t = torch.tensor([0.0, 5.0, 5.2, 10.0], dtype=torch.float64)
    s = solve(func, torch.ones(1, 1, dtype=torch.float64), t, integrator(max_step=0.1))
    assert s.x[2].item() == pytest.approx(math.exp(-5.2) + 10 * (1 - math.exp(-0.2)), abs=2e-2)
    assert s.accepted.item() >= 100


class Pulse(VectorField):
    """f(x, t) = 10 in 5 < t < 5.2, else 0."""

    def forward(self, t, x):
        return 10.0 * ((t > 5.0) & (t < 5.2)) * torch.ones_like(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_a_solve(dtype):
    func, x = DampedODEFunc(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), Constant(2.0)), torch.ones(2, 3)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        y = AdaptiveExponential(1e-2, 1e-2)(func, x, 0.0, 1.0)
    torch.testing.assert_close(y, AdaptiveExponential()(func, x, 0.0, 1.0).detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4()], ids=repr)
def test_what_no_step_size_per_sample_can_solve_is_refused(integrator):
    x = torch.randn(4, 3)
    normed, dropped = (DampedODEFunc(nn.Sequential(part, nn.Tanh())) for part in (nn.BatchNorm1d(3), nn.Dropout(0.1)))
    with pytest.raises(ValueError, match="acts on each sample by itself, got batch norm"):
        integrator(normed, x, 0.0, 1.0)
    with pytest.raises(ValueError, match="an f without dropout, got"):
        integrator(dropped, x, 0.0, 1.0)
    for func in (normed, dropped):
        integrator(func.eval(), x, 0.0, 1.0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
def test_a_compiled_attempt_gives_the_same_states_and_gradients():
    times = torch.linspace(0, 2, 4, dtype=torch.float64)
    func = DampedODEFunc(Forced(3), Learned(0.5, 5.0, shape=(3,))).double()
    start = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for compile in (False, True):
        x = start.clone().requires_grad_()
        s = solve(func, x, times, AdaptiveExponential(1e-6, 1e-8, compile=compile))
        results.append((s.x, s.nfe, *torch.autograd.grad(s.x.square().sum(), (x, *func.parameters()))))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_compiled_attempt_gives_up_the_same_samples():
    func, x = DampedODEFunc(EDGES["where"], Constant(1.0)), torch.tensor([[1.0], [9.0]], dtype=torch.float64)
    with torch.no_grad():
        eager, compiled = (
            solve(func, x, torch.tensor([0.0, 1.0]), AdaptiveExponential(compile=compile)) for compile in (False, True)
        )
    assert compiled.status == eager.status == (Status.NOT_FINITE, Status.SUCCESS)
    torch.testing.assert_close(compiled.reached, eager.reached, rtol=1e-8, atol=0)
    torch.testing.assert_close(compiled.x, eager.x, equal_nan=True)
    assert compiled.rejected[0] < 110


@pytest.mark.parametrize(("f", "span"), [(lambda x: -1e36 * x, 1.0), (torch.tanh, 1e-50), (torch.tanh, 1e-320)])
def test_a_first_step_that_underflows_ends_the_solve(f, span):
    """Its length rounded to 0, and steps of 0 were accepted until max_steps."""
    times = torch.tensor([0.0, span], dtype=torch.float64)
    solution = solve(DampedODEFunc(f, Constant(0.5)), torch.ones(1, 2), times)
    assert solution.accepted.item() < 100
    assert solution.status[0] is not Status.MAX_STEPS
