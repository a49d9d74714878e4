"""Events: their times and states against closed forms, their gradients, chains of them, and refusals."""

import functools
import math

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, Jumps, VectorField, odeint, odeint_event
from dampode.damping import Constant, Gated, Learned
from dampode.integrators import AdaptiveExponential, ExponentialAdams, IntegrationError, KenCarp4, Krogstad4
from tests.helpers.oracles import Forced

RTOL = 1e-6
ALL = [
    AdaptiveExponential(RTOL, 1e-8),
    AdaptiveExponential(RTOL, 1e-8, recompute=3),
    KenCarp4(RTOL, 1e-8),
    ExponentialAdams(RTOL, 1e-8),
    ExponentialAdams(RTOL, 1e-8, recompute=3),
]
TIGHT = AdaptiveExponential(1e-7, 1e-9)  # a difference quotient sees where steps and orders change
by_name = pytest.mark.parametrize(
    "integrator", ALL, ids=["exponential", "recompute", "kencarp4", "adams", "adams-recompute"]
)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


class Fall(VectorField):
    """Height and speed under gravity."""

    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(tensor(9.81)[0])

    def forward(self, t, x):
        return torch.stack((x[:, 1], 0 * x[:, 0] - self.g), 1)


class Drive(VectorField):
    """A constant current into a leaky membrane: v' = −λ v + current."""

    def __init__(self):
        super().__init__()
        self.current = nn.Parameter(tensor(3.0)[0])

    def forward(self, t, x):
        return self.current + 0 * x


def height(t, x):
    return x[:, 0]


def dropped(n=5):
    h = torch.linspace(1, 20, n, dtype=torch.float64).requires_grad_()
    func = DampedODEFunc(Fall(), Constant(0.0))
    return func, h, torch.stack((h, torch.zeros_like(h)), 1)


def assert_gradients(got, exact, inputs, **tolerance):
    pairs = (torch.autograd.grad(v.sum(), inputs, retain_graph=True) for v in (got, exact))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@by_name
def test_free_fall(integrator):
    func, h, x = dropped()
    s = odeint_event(func, x, (0.0, 10.0), height, integrator)
    g = func.f.g
    t, v = (2 * h / g).sqrt(), -((2 * h * g).sqrt())
    torch.testing.assert_close(s.t, t, rtol=10 * RTOL, atol=0)
    torch.testing.assert_close(s.x, torch.stack((0 * v, v), 1), rtol=10 * RTOL, atol=1e-8)
    assert s.ended.all()
    assert s.found.tolist() == [1] * 5
    assert torch.equal(s.times[0], s.t)
    assert s.which.tolist() == [[0] * 5]
    assert_gradients(s.t, t, [h, g], rtol=1e-5, atol=1e-8)
    assert_gradients(s.x[:, 1], v, [h, g], rtol=1e-5, atol=1e-8)


@by_name
def test_a_bouncing_ball(integrator):
    func, h, x = dropped(3)
    rest = tensor(0.8).requires_grad_()
    s = odeint_event(
        func,
        x,
        (0.0, 1000.0),
        height,
        integrator,
        count=4,
        map=lambda k, t, x: x * torch.stack((rest[0] * 0, -rest[0])),
    )
    first = (2 * h / func.f.g).sqrt()
    times = torch.stack([first * (1 + 2 * sum(rest**k for k in range(1, n))) for n in (1, 2, 3, 4)])
    torch.testing.assert_close(s.times, times, rtol=10 * RTOL, atol=0)
    torch.testing.assert_close(
        s.states[..., 1], -func.f.g * first * rest ** torch.arange(4.0)[:, None], rtol=1e-5, atol=0
    )
    assert_gradients(s.t, times[-1], [h, rest, func.f.g], rtol=1e-5, atol=1e-6)


def spikes(integrator, damping, samples, count):
    """v' = −λv + I from 0 to t = 2, threshold 1, reset to 0.2: the solve, its closed form, and its inputs."""
    func, reset = DampedODEFunc(Drive(), damping).double(), tensor(0.2).requires_grad_()
    x = torch.zeros(samples, 1, dtype=torch.float64)
    s = odeint_event(
        func,
        x,
        (0.0, 2.0),
        lambda t, x: x[:, 0] - 1,
        integrator,
        direction=1,
        count=count,
        map=lambda k, t, x: 0 * x + reset,
    )
    lam = func.lam(0.0, x).reshape(())
    rest = func.f.current / lam
    first, period = -torch.log(1 - 1 / rest) / lam, torch.log((rest - reset) / (rest - 1)) / lam
    return s, (lam, rest, first, period), [reset, *func.parameters()]


@by_name
def test_an_integrate_and_fire_neuron(integrator):
    """The periods are known in closed form."""
    s, (lam, rest, first, period), inputs = spikes(integrator, Constant(2.0), samples=2, count=50)
    reset = inputs[0]
    n = 1 + math.floor((2.0 - first.item()) / period.item())
    exact = first + period * torch.arange(n)
    assert s.found.tolist() == [n, n]
    assert not s.ended.any()
    assert s.t.tolist() == pytest.approx([2.0, 2.0])
    torch.testing.assert_close(s.times, exact[:, None].expand(-1, 2), rtol=10 * RTOL, atol=0)
    last = rest - (rest - reset) * torch.exp(-lam * (2.0 - exact[-1]))
    torch.testing.assert_close(s.x[:, 0], last.expand(2), rtol=1e-5, atol=0)
    assert_gradients(s.times, 2 * exact, inputs, rtol=1e-4, atol=1e-5)
    assert_gradients(s.x, 2 * last, inputs, rtol=1e-4, atol=1e-5)


def forced_event(sign):
    """A number that depends on times and states of events: as a function of the integrator, and its inputs."""
    torch.manual_seed(0)
    func = DampedODEFunc(Forced(2), Learned(0.5, 0.9)).double()
    x = torch.tensor([[1.5, 0.2], [2.0, -0.5], [0.3, 0.1]], dtype=torch.float64).requires_grad_()
    level = tensor(0.4).requires_grad_()
    span = sign * tensor(0.0, 4.0).requires_grad_()

    def run(integrator):
        s = odeint_event(func, x, span, lambda t, x: x.square().sum(1) - level - 0.1 * t[:, 0], integrator)
        return (s.t.sin() + s.x.cos().sum(1)).sum()

    return run, [x, level, span, *func.parameters()]


@functools.cache
def difference_quotients(sign, step=1e-4):
    """Of the first entry of every input, and of both ends of the span."""
    run, inputs = forced_event(sign)
    slopes = []
    with torch.no_grad():
        for number, value in enumerate(inputs):
            for k in range(2 if number == 2 else 1):
                values = []
                for move in (step, -step):
                    old = value.detach().clone()
                    value.view(-1)[k] += move
                    values.append(run(TIGHT))
                    value.copy_(old)
                slopes.append((values[0] - values[1]).item() / (2 * step))
    return slopes


@by_name
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
def test_gradients_against_finite_differences(integrator, sign):
    run, inputs = forced_event(sign)
    got = torch.autograd.grad(run(integrator), inputs)
    entries = [
        gradient.reshape(-1)[k].item() for number, gradient in enumerate(got) for k in range(2 if number == 2 else 1)
    ]
    assert entries == pytest.approx(difference_quotients(sign), rel=1e-2, abs=2e-3)


def hessian(value, inputs):
    """The second derivatives of a number, one row after the other."""
    gradients = torch.autograd.grad(value, inputs, create_graph=True)
    rows = (
        torch.autograd.grad(entry, inputs, retain_graph=True, materialize_grads=True)
        for gradient in gradients
        for entry in gradient.reshape(-1)
    )
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


@by_name
def test_second_derivatives_of_free_fall(integrator):
    func, h, x = dropped(2)
    s = odeint_event(func, x, (0.0, 10.0), height, integrator)
    g = func.f.g
    for got, exact in ((s.t, (2 * h / g).sqrt()), (s.x[:, 1], -((2 * h * g).sqrt()))):
        torch.testing.assert_close(hessian(got.sum(), [h, g]), hessian(exact.sum(), [h, g]), rtol=1e-6, atol=1e-9)


@by_name
def test_second_derivatives_of_a_chain_of_thresholds(integrator):
    """The third spike of the neuron of `test_an_integrate_and_fire_neuron`."""
    s, (_, _, first, period), inputs = spikes(integrator, Learned(2.0, 2.0), samples=1, count=3)
    exact = (first + 2 * period).squeeze()
    torch.testing.assert_close(hessian(s.t[0], inputs), hessian(exact, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_second_derivatives_against_finite_differences_of_the_gradient():
    torch.manual_seed(0)
    func = DampedODEFunc(Forced(2), Gated(2)).double()
    x = torch.tensor([[1.5, 0.2], [0.3, 0.1]], dtype=torch.float64).requires_grad_()
    level, span = tensor(0.4).requires_grad_(), tensor(0.0, 4.0).requires_grad_()
    inputs = [x, level, span]

    def gradient():
        s = odeint_event(func, x, span, lambda t, x: x.square().sum(1) - level - 0.1 * t[:, 0].sin(), TIGHT)
        assert s.ended.any()
        value = (s.t.sin() + s.x.cos().sum(1)).sum()
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, inputs, create_graph=True)])

    rows = [torch.autograd.grad(entry, inputs, retain_graph=True, materialize_grads=True) for entry in gradient()]
    got = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    for column, value, k in [(2, x, 2), (4, level, 0), (5, span, 0)]:
        ends = []
        for move in (1e-4, -1e-4):
            old = value.detach().clone()
            value.data.view(-1)[k] += move
            ends.append(gradient().detach())
            value.data.copy_(old)
        torch.testing.assert_close(got[:, column], (ends[0] - ends[1]) / 2e-4, rtol=1e-3, atol=1e-3)


def test_an_event_without_a_slope_has_no_derivative():
    """The sign of a state is found, but its slope is 0: a gradient of 0 would be wrong."""
    func, x = DampedODEFunc(lambda x: 0 * x - 1, Constant(0.0)), tensor([1.0], [2.0]).requires_grad_()
    s = odeint_event(func, x, (0.0, 1.5), lambda t, x: torch.sign(x[:, 0]) + 0 * x[:, 0], ALL[0])
    assert s.t.tolist() == pytest.approx([1.0, 1.5], rel=1e-5)
    assert torch.isnan(torch.autograd.grad(s.t[0], x, retain_graph=True)[0][0]).all()
    assert torch.autograd.grad(s.x[1].sum(), x)[0].tolist()[1] == [1.0]


def test_a_batch_equals_its_samples_and_its_cost_is_that_of_the_longest():
    func, _, x = dropped()
    together = odeint_event(func, x, (0.0, 10.0), height, ALL[0])
    for n in range(5):
        alone = odeint_event(func, x[n : n + 1], (0.0, 10.0), height, ALL[0])
        torch.testing.assert_close(together.t[n : n + 1], alone.t, rtol=1e-9, atol=0)
        assert together.nfe[n] <= alone.nfe[0] + 8


@by_name
def test_samples_without_an_event_say_so(integrator):
    func, _, x = dropped()
    s = odeint_event(func, x, (0.0, 1.0), height, integrator)
    assert s.ended.tolist() == [True, False, False, False, False]
    assert s.found.tolist() == [1, 0, 0, 0, 0]
    assert s.t[1:].tolist() == pytest.approx([1.0] * 4)
    torch.testing.assert_close(s.x[1:, 0], x[1:, 0] - 9.81 / 2, rtol=1e-6, atol=0)
    assert s.which[0].tolist() == [0, -1, -1, -1, -1]
    assert torch.isnan(s.times[0, 1:]).all()
    none = odeint_event(func, x, (0.0, 0.01), height, integrator)
    assert none.times.shape == (0, 5)
    assert none.states.shape == (0, 5, 2)
    assert not none.ended.any()


@by_name
@pytest.mark.parametrize(("direction", "expected"), [(0, 0.5), (1, 1.5), (-1, 0.5)])
def test_directions(integrator, direction, expected):
    func = DampedODEFunc(lambda x: 0 * x, Constant(0.0))
    x = torch.zeros(2, 1, dtype=torch.float64)
    s = odeint_event(func, x, (0.0, 2.0), lambda t, x: torch.cos(torch.pi * t[:, 0]), integrator, direction=direction)
    torch.testing.assert_close(s.t, tensor(expected, expected), rtol=1e-7, atol=0)


@by_name
def test_the_first_of_several_functions_counts(integrator):
    func = DampedODEFunc(lambda x: 0 * x + 1, Constant(0.0))
    x = tensor([0.0, 0.5], [0.5, 0.0])

    def walls(t, x):
        return torch.stack((1e3 * (x[:, 0] - 1), x[:, 1] - 1, t[:, 0] - 0.75), 1)

    s = odeint_event(func, x, (0.0, 3.0), walls, integrator, count=3)
    torch.testing.assert_close(s.times, tensor([0.5, 0.5], [0.75, 0.75], [1.0, 1.0]), rtol=1e-7, atol=0)
    assert s.which.tolist() == [[1, 0], [2, 2], [0, 1]]


def test_times_of_each_sample_and_jumps():
    func = DampedODEFunc(Drive(), Constant(0.0))
    x, span = torch.zeros(3, 1, dtype=torch.float64), tensor([0.0, 5.0], [1.0, 5.0], [0.0, 0.5])
    jumps = Jumps(
        tensor([0.2, 0.6], [math.nan, math.nan], [0.1, math.nan]), lambda j, x: x + tensor(1.0, -9.0)[j][:, None]
    )
    s = odeint_event(func, x, span, lambda t, x: x[:, 0] - 2, ALL[0], jumps=jumps)
    torch.testing.assert_close(s.t, tensor(1 / 3, 1 + 2 / 3, 1 / 3), rtol=1e-6, atol=0)
    over = odeint_event(func, x, span, lambda t, x: x[:, 0] - 0.9, ALL[0], jumps=jumps)
    # a jump over 0 is no event, the way back is one, and so is the way up after the second jump
    assert over.ended.tolist() == [True, True, False]


def test_float32_and_images():
    func = DampedODEFunc(torch.ones_like, Constant(torch.zeros(3, 1, 1)))
    x = torch.rand(2, 3, 4, 4)
    s = odeint_event(func, x, (0.0, 2.0), lambda t, x: x.flatten(1).amin(1) - 1)
    assert s.x.shape == x.shape
    torch.testing.assert_close(s.t.float(), 1 - x.flatten(1).amin(1), rtol=1e-4, atol=1e-5)


def test_refusals():
    func, _, x = dropped()
    span = (0.0, 1.0)
    with pytest.raises(ValueError, match="must not be 0 at the start, got event 0 of sample 0 with the value 0"):
        odeint_event(func, x, span, lambda t, x: x[:, 1])
    with pytest.raises(ValueError, match="must not be 0 at the start, got event 0 of sample 0 with the value nan"):
        odeint_event(func, x, span, lambda t, x: x[:, 1] / 0)
    with pytest.raises(ValueError, match="an event must act on each sample by itself, got event 0 that gives sample"):
        odeint_event(func, x, span, lambda t, x: x[:, 0] + x[:, 0].mean())
    with pytest.raises(ValueError, match=r"event\(t, x\) must return \(N,\) or \(N, K\), got shape \(\)"):
        odeint_event(func, x, span, lambda t, x: x.sum())
    with pytest.raises(TypeError, match=r"event\(t, x\) must be of type Tensor, got float"):
        odeint_event(func, x, span, lambda t, x: 1.0)
    with pytest.raises(TypeError, match="events need ExponentialAdams, AdaptiveExponential or KenCarp4"):
        odeint_event(func, x, span, height, Krogstad4(3))
    with pytest.raises(ValueError, match=r"direction must be 1 \(upward\), -1 \(downward\) or 0 \(both\), got 2"):
        odeint_event(func, x, span, height, direction=2)
    with pytest.raises(ValueError, match="count must be a positive int, got 0"):
        odeint_event(func, x, span, height, count=0)
    with pytest.raises(ValueError, match=r"t_span must be \(t0, t1\)"):
        odeint_event(func, x, tensor(0.0, 1.0, 2.0), height)
    with pytest.raises(ValueError, match=r"map\(k, t, x\) must keep the state's shape"):
        odeint_event(func, x, span, height, count=2, map=lambda k, t, x: x[:, 0])
    with pytest.raises(IntegrationError, match="1 of 2 samples failed, the first at index 1, at t = 1"):
        odeint_event(
            DampedODEFunc(torch.square, Constant(0.0)), tensor([0.1], [1.0]), (0.0, 2.0), lambda t, x: x[:, 0] + 1
        )


def test_events_leave_the_flow_as_it_is():
    func, x = DampedODEFunc(Forced(3), Constant(1.0)), torch.rand(2, 3, dtype=torch.float64)
    t = tensor(0.0, 3.0)
    s = odeint_event(func, x, (0.0, 3.0), lambda t, x: torch.sin(5 * t[:, 0]) + 1e-3, ALL[0], count=100)
    assert s.found.tolist() == [5, 5] or s.found.tolist() == [4, 4]
    torch.testing.assert_close(s.x, odeint(func, x, t, ALL[0])[-1], rtol=1e-5, atol=1e-6)


@by_name
def test_a_state_that_stays_at_the_event_has_one_event(integrator):
    func = DampedODEFunc(lambda x: torch.ones_like(x), Constant(0.0))
    stop = torch.zeros(2, 1, dtype=torch.float64)

    def event(t, x):
        return torch.clamp(x[:, 0], max=1.0) - 1.0

    s = odeint_event(func, stop, (0.0, 3.0), event, integrator, count=5)
    assert s.found.tolist() == [1, 1]
    assert s.t.tolist() == pytest.approx([3.0, 3.0])
