"""Step sizes and giving up, for both integrators with a step size per sample."""

import math

import pytest
import torch

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, ExponentialAdams, IntegrationError, KenCarp4, Status
from dampode.integrators.jumps import Jumps
from dampode.integrators.step_control import GiveUp
from dampode.integrators.to_tolerance import TolerantIntegrator
from tests.helpers.oracles import Forced

EDGES = {  # dx/dt = -x + f crosses x = 1/2 at log(2) / 2, and at about 0.3446
    "where": lambda x: torch.where(x < 0.5, torch.nan, -x),
    "sqrt": lambda x: -torch.sqrt(x - 0.5) - 0.3,
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4()], ids=repr)
def test_a_state_that_reaches_where_f_is_nan_is_given_up(integrator, edge, dtype):
    """Shorter steps would go on to max_steps: each covers a part of what is left before the edge."""
    func, t = DampedODEFunc(EDGES[edge], Constant(1.0)), torch.linspace(0, 1, 5, dtype=torch.float64)
    x = torch.tensor([[100.0, 80.0], [1.0, 1.0], [50.0, 20.0]], dtype=dtype)
    s = solve(func, x, t, integrator)
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS)
    assert s.reached[1].item() == pytest.approx(0.3466 if edge == "where" else 0.3446, abs=2e-4)
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
    (AdaptiveExponential, AtRest(30), 0.0, 1e-3, 1e-3, AtRest(30).exact),
    (AdaptiveExponential, lambda x: 0.5 * x * torch.log(x) - x, 1.0, 6.0, None, gompertz),
    (KenCarp4, lambda x: 0.5 * x * torch.log(x) - x, 1.0, 6.0, None, gompertz),
]


@pytest.mark.filterwarnings("ignore:f itself is stiff")  # it is, once it is no longer at rest
@pytest.mark.parametrize(("integrator", "f", "start", "span", "first", "exact"), ENDURED)
def test_steps_that_were_only_too_long_give_no_sample_up(integrator, f, start, span, first, exact, monkeypatch):
    """They overflow, or leave what f is defined on, which the trajectory never does."""
    func, x, lost = DampedODEFunc(f, Constant(0.0)), torch.full((1, 1), start, dtype=torch.float64), []
    func.f.register_forward_hook(lambda _, __, fx: lost.append(not bool(torch.isfinite(fx).all())))
    t = torch.linspace(0, span, 4, dtype=torch.float64)
    if first is not None:  # an estimate that is far too long
        monkeypatch.setattr(TolerantIntegrator, "_first_step", lambda _, loop: torch.full_like(loop.tau, first))
    s = solve(func, x, t, integrator(1e-4, 1e-6))
    assert s.failure() is None
    assert any(lost)
    expected = torch.tensor([exact(now) for now in t[1:].tolist()], dtype=torch.float64)
    torch.testing.assert_close(s.x[1:, 0, 0], expected, rtol=2e-3, atol=2e-5)


@pytest.mark.filterwarnings("ignore:f itself is stiff")
@pytest.mark.parametrize("k", [30, 100])
def test_an_implicit_first_step_from_rest_is_not_too_long(k):
    """A step over the whole span would end at states of size 10^37 for k = 100."""
    func, t = DampedODEFunc(AtRest(k), Constant(0.0)), torch.linspace(0, 1e-3, 4, dtype=torch.float64)
    s = solve(func, torch.zeros(1, 1, dtype=torch.float64), t, KenCarp4(1e-4, 1e-6, first_step=1e-3))
    assert s.failure() is None
    expected = torch.tensor([AtRest(k).exact(now) for now in t[1:].tolist()], dtype=torch.float64)
    torch.testing.assert_close(s.x[1:, 0, 0], expected, rtol=2e-3, atol=2e-5)


def test_samples_are_given_up_after_a_hundred_nonfinite_steps_in_one_place():
    tau, h = torch.zeros(3, 1, dtype=torch.float64), torch.full((3, 1), 0.5, dtype=torch.float64)
    lost, give_up = torch.tensor([[True], [True], [False]]), GiveUp(tau, torch.tensor(1.0))
    assert torch.equal(give_up.limited(2 * h, h), 2 * h)
    for n in range(1, 101):
        found = give_up.given_up(lost, tau)
        assert found.flatten().tolist() == [n == 100, False, False]
        tau = tau + torch.tensor([[1e-6], [1e-4], [0.0]], dtype=torch.float64)
    assert give_up.limited(2 * h, h).flatten().tolist() == [0.5, 0.5, 1.0]
    assert torch.equal(give_up.limited(2 * h, h), 2 * h)


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


class EarlyPulses(VectorField):
    """f(x, t) = tanh x with a pulse after t = 0 and one after |t| = 1."""

    def forward(self, t, x):
        pulses = torch.exp(-(((t.abs() - 0.17) / 0.05) ** 2)) + torch.exp(-(((t.abs() - 1.17) / 0.05) ** 2))
        return torch.tanh(x) + 5 * pulses


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("integrator", [AdaptiveExponential, ExponentialAdams, KenCarp4])
def test_a_first_step_that_is_too_long_is_not_taken(integrator, direction, dtype):
    """At the start and after a jump the estimate decides, so the solve is that without first_step."""
    func, x = DampedODEFunc(EarlyPulses(), Constant(0.0)), torch.tensor([[0.3, -1.0], [0.0, 2.0]], dtype=dtype)
    t = direction * torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    jumps = Jumps(t[1:2], lambda t, x: x + 1)
    free, bounded = (solve(func, x, t, integrator(first_step=first), jumps=jumps) for first in (None, 1.0))
    torch.testing.assert_close(bounded.x, free.x, rtol=0, atol=0)
    assert torch.equal(bounded.nfe, free.nfe)
    exact = solve(func, x.double(), t, AdaptiveExponential(1e-9, 1e-11, max_step=0.02), jumps=jumps)
    torch.testing.assert_close(bounded.x.double(), exact.x, rtol=2e-3, atol=1e-3)


FAST = [  # dx/dt = f: a field, x(0), the times, x at the last time
    (lambda x: -x * x, 1e6, [0.0, 1e8], 1 / (1e-6 + 1e8)),
    (lambda x: -x * x, 1e6, [3.0, 1e8], 1 / (1e-6 + 1e8 - 3)),
    (lambda x: -x * x, 1e6, [-1.0, 1.0], 1 / (1e-6 + 2)),
    (lambda x: -torch.exp(x), 80.0, [0.0, 1.0], 0.0),
    (lambda x: torch.exp(x), 80.0, [0.0, -1.0], 0.0),
    (lambda x: -1e36 * torch.sinh(x), 1.0, [0.0, 1e-35], 2 * math.atanh(math.tanh(0.5) * math.exp(-10))),
]


@pytest.mark.parametrize("integrator", [AdaptiveExponential, ExponentialAdams])
@pytest.mark.parametrize(("f", "start", "times", "exact"), FAST)
def test_the_shortest_step_is_as_short_as_the_present_time_allows(f, start, times, exact, integrator, dtype):
    func, x = DampedODEFunc(f, Constant(0.0)), torch.tensor([[start], [0.5 * start]], dtype=dtype)
    s = solve(func, x, torch.tensor(times, dtype=torch.float64), integrator(1e-4, 1e-11))
    assert s.failure() is None
    assert s.nfe.max() < 2000
    assert s.x[-1, 0].item() == pytest.approx(exact, rel=1e-2, abs=1e-4 * start if exact == 0 else 0)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_sums_of_squares_neither_overflow_nor_vanish(size):
    """x' = −sin x in units of size: float32 has no square of it."""
    t, found = torch.tensor([0.0, 5.0]), []
    for unit in (1.0, size):
        func = DampedODEFunc(lambda x, unit=unit: -unit * torch.sin(x / unit), Constant(0.0))
        s = solve(func, torch.full((1, 3), unit), t, AdaptiveExponential(1e-4, 1e-6 * unit))
        found.append((s.nfe.item(), s.x[-1] / unit))
    assert abs(found[0][0] - found[1][0]) <= 8
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("f", "span"), [(torch.tanh, 1e-50), (torch.tanh, 1e-320)])
def test_a_first_step_that_underflows_ends_the_solve(f, span):
    """Its length rounded to 0, and steps of 0 were accepted until max_steps."""
    times = torch.tensor([0.0, span], dtype=torch.float64)
    solution = solve(DampedODEFunc(f, Constant(0.5)), torch.ones(1, 2), times)
    assert solution.accepted.item() < 100
    assert solution.status[0] is not Status.MAX_STEPS
