"""KenCarp4 on the stiff problems of the literature, and on those that it once got wrong without a word."""

import math

import pytest
import torch
from torch.autograd import grad

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, KenCarp4, Status, TorchDiffEq
from dampode.weighting import one_plus
from tests.helpers.oracles import dop853
from tests.helpers.stiff_problems import BDF_CALLS, CALLS, ENDS, PROBLEMS, RING, RING_END, robertson

ROBERTSON_AT_100 = ENDS["Robertson to 1e2"]


class Field(VectorField):
    """f(t, x), a function."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, t, x):
        return self.f(t, x)


def solved(f, x, end, integrator=None, lam=0.0, dtype=torch.float64, **rho):
    """The solution of x' = −λ x + ρ f from x, one sample, at 0 and ``end``."""
    func = DampedODEFunc(Field(f), Constant(lam), **rho)
    with torch.no_grad():
        return solve(func, torch.tensor([x], dtype=dtype), torch.tensor([0.0, end]).double(), integrator or KenCarp4())


def tolerances(solution, want, integrator=None):
    """The largest error at the end, in tolerances."""
    assert solution.failure() is None
    integrator, want = integrator or KenCarp4(), torch.as_tensor(want, dtype=torch.float64)
    error = (solution.x[-1, 0].double() - want).abs() / (integrator.atol + integrator.rtol * want.abs())
    return error.max().item()


@pytest.mark.parametrize("tight", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["1e-4", "1e-6"])
@pytest.mark.parametrize("damping", ["none", "diagonal"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_stiff_problems_come_out_right_at_a_few_times_the_calls_of_bdf(problem, damping, tight):
    rtol = 1e-6 if tight else 1e-4
    integrator = KenCarp4(rtol, rtol * problem.atol)
    with torch.no_grad():
        s = solve(problem.func(damping), problem.start, torch.tensor([0.0, problem.end]).double(), integrator)
    assert tolerances(s, ENDS[problem.name], integrator) < 30
    calls = BDF_CALLS.get(problem.name, (None, None))[tight]
    assert s.nfe.item() < 1.15 * CALLS[problem.name][tight]
    if calls is not None:
        assert s.nfe.item() < 2.3 * calls


@pytest.mark.slow
def test_ring_modulator():
    """Errors grow: at the end, t = 1e-3, SciPy's BDF is 1,765 tolerances off. This is a tenth of the way."""
    integrator = KenCarp4(1e-4, 1e-8)
    with torch.no_grad():
        s = solve(RING.func("none"), RING.start, torch.tensor([0.0, RING.end]).double(), integrator)
    assert tolerances(s, RING_END, integrator) < 600
    assert s.nfe.item() < 30_000


@pytest.mark.parametrize("n", [4, pytest.param(24, marks=pytest.mark.slow)])
def test_robertson_at_random_tolerances(n):
    draws = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rtol, share in zip(10 ** (-3 - 5 * draws[:, 0]), 10 ** (-1 - 6 * draws[:, 1]), strict=True):
        integrator = KenCarp4(rtol.item(), (rtol * share).item())
        for lam in (0.0, 1.0):
            s = solved(lambda t, x, lam=lam: robertson(t, x) + lam * x, [1.0, 0.0, 0.0], 100.0, integrator, lam)
            assert tolerances(s, ROBERTSON_AT_100, integrator) < 30


def oscillator(t, x):
    y, v = x.unbind(1)
    drive = 2 * torch.sin(2.78535 * torch.as_tensor(t, dtype=x.dtype).reshape(-1))
    return torch.stack((v, y**3 / 6 - y + drive), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_oscillator_at_rest(dtype):
    """f = 0 at the start says nothing of how long the first step may be."""
    s = solved(oscillator, [0.0, 0.0], 1.0, dtype=dtype)
    assert s.x[-1, 0, 0].item() == pytest.approx(0.590882, abs=3e-4)


def test_a_pulse_after_a_rest():
    """Nothing happens before t = 0.5."""
    s = solved(lambda t, x: (torch.as_tensor(t) - 0.5).clamp(min=0).expand_as(x), [0.0], 1.0, KenCarp4(max_step=0.1))
    assert tolerances(s, [0.125]) < 30


@pytest.mark.parametrize("rate", [1e2, 1e4, 1e6, 1e8])
def test_a_slow_number_drives_a_fast_one(rate):
    s = solved(lambda t, x: torch.stack((-x[:, 0], rate * (torch.cos(x[:, 0]) - x[:, 1])), 1), [1.0, 0.0], 1.0)
    slow = math.exp(-1)
    assert tolerances(s, [slow, math.cos(slow) - math.sin(slow) * slow / (rate - 1)]) < 30
    assert s.nfe.item() < 500


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("lam", [1e2, 1e4, 1e6, 1e8])
def test_a_creeping_state(lam, d):
    """ρ = 1 + λ, f = (x0, cos x0): x0' = x0, which only a cancellation of λ lets through. d = 64 goes by secants."""
    s = solved(
        lambda t, x: torch.cat((x[:, :1], torch.cos(x[:, :1]).expand(-1, d - 1)), 1),
        [1.0] + [0.0] * (d - 1),
        1.0,
        lam=lam,
        rho=one_plus,
    )
    assert s.failure() is None
    assert s.x[-1, 0, 0].item() == pytest.approx(math.e, rel=1e-3)
    assert s.x[-1, 0, 1].item() == pytest.approx(math.cos(math.e), abs=3 / lam + 1e-3)
    assert s.nfe.item() < 2000


def kepler(t, x):
    place, speed = x.chunk(2, 1)
    return torch.cat((speed, -place / place.norm(dim=1, keepdim=True) ** 3), 1)


def test_kepler_at_high_eccentricity():
    """An error of the stages counts for more than one of the steps where errors grow."""
    start = [0.1, 0.0, 0.0, 19**0.5]
    want = dop853(Field(kepler), torch.tensor([start], dtype=torch.float64), 0.0, 10.0).y[:, -1]
    errors = [
        tolerances(solved(kepler, start, 10.0, integrator), want, integrator)
        for integrator in (KenCarp4(1e-4, 1e-6), TorchDiffEq("dopri5", 1e-4, 1e-6))
    ]
    assert errors[0] < 10 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first_step", [None, 1.0, 0.1])
def test_a_first_step_that_is_far_too_long(first_step, dtype):
    s = solved(lambda t, x: -torch.sinh(x), [10.0], 1.0, KenCarp4(first_step=first_step), dtype=dtype)
    assert tolerances(s, [2 * math.atanh(math.exp(-1) * math.tanh(5))]) < 30


def test_stiff_beside_easy_and_failing_samples():
    """A sample that fails, and one that needs Jacobians, leave their batch mates as they are."""
    rates = torch.tensor([[0.0], [1.0], [1e6], [-1.0]], dtype=torch.float64)

    def f(t, x):
        rate = rates[-len(x) :] if len(x) == 4 else rates[:1]
        stiff = rate.abs() * (torch.cos(x[:, :1]) - x[:, 1:])
        broken = torch.where((rate < 0) & (torch.as_tensor(t).reshape(-1, 1) > 0.5), torch.nan, 0.0)
        return torch.cat((-x[:, :1], stiff), 1) + broken

    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    func, t = DampedODEFunc(Field(f), Constant(0.0)), torch.tensor([0.0, 1.0]).double()
    with torch.no_grad():
        alone, together = solve(func, x, t, KenCarp4()), solve(func, x.expand(4, 2), t, KenCarp4())
    assert together.status == (Status.SUCCESS, Status.SUCCESS, Status.SUCCESS, Status.NOT_FINITE)
    torch.testing.assert_close(together.x[:, 0], alone.x[:, 0], rtol=1e-12, atol=1e-14)
    assert together.nfe[0] == alone.nfe[0]
    assert together.x[-1, 2, 1].item() == pytest.approx(math.cos(math.exp(-1)), rel=1e-3)


def test_gradients_on_a_stiff_problem_match_finite_differences():
    constants = torch.tensor([0.04, 3e7, 1e4], dtype=torch.float64, requires_grad=True)

    def rate(t, x):
        a, b, c = x.unbind(1)
        slow, fast = constants[0] * a - constants[2] * b * c, constants[1] * b * b
        return torch.stack((-slow, slow - fast, fast), 1)

    func, x = DampedODEFunc(Field(rate), Constant(0.0)), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)

    def end(integrator):
        return integrator(func, x.requires_grad_(), 0.0, 10.0)[0, 0]

    found = grad(end(KenCarp4(1e-6, 1e-10)), constants)[0]
    tight = KenCarp4(1e-8, 1e-12)
    with torch.no_grad():
        for k, value in enumerate(constants.tolist()):
            ends = []
            for sign in (1, -1):
                constants[k] = value * (1 + sign * 1e-3)
                ends.append(end(tight))
            constants[k] = value
            assert found[k].item() == pytest.approx(((ends[0] - ends[1]) / (2e-3 * value)).item(), rel=1e-3)


class Drive(VectorField):
    """u(t) = a cos t, whatever the state."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t, x):
        return (self.a * torch.cos(torch.as_tensor(t, dtype=x.dtype))).expand_as(x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("lam", [0.0, 3.0])
def test_gradients_where_f_has_no_graph_to_the_state(lam, trained):
    func, x = DampedODEFunc(Drive().requires_grad_(trained), Constant(lam)), torch.ones(2, 3).double().requires_grad_()
    t = torch.tensor([0.0, 0.4, 1.0]).double()
    wanted = (x, func.f.a) if trained else (x,)
    ours, theirs = (
        grad(odeint(func, x, t, integrator)[1:].sin().sum(), wanted)
        for integrator in (KenCarp4(1e-7, 1e-9), AdaptiveExponential(1e-8, 1e-10))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copies", [20, 400])
def test_secants_on_a_stiff_problem(copies):
    """Sixty numbers begin with secants; 1,200 have no Jacobian."""
    s = solved(
        lambda t, x: robertson(t, x.reshape(-1, 3)).reshape(x.shape),
        [1.0, 0.0, 0.0] * copies,
        100.0,
        KenCarp4(1e-4, 1e-8),
    )
    assert tolerances(s, ROBERTSON_AT_100 * copies, KenCarp4(1e-4, 1e-8)) < 30
    assert s.nfe.item() < 1000


@pytest.mark.parametrize("d", [3, 40, 300])
@pytest.mark.parametrize("kind", ["real", "complex", "growing"])
def test_stiff_linear_systems(d, kind):
    """Rates from 0.1 to 1e6 in hidden directions, one of them growing or all in rotating pairs."""
    generator = torch.Generator().manual_seed(d)
    rates = -torch.logspace(-1, 6, d, dtype=torch.float64)
    core = rates.diag()
    if kind == "complex":
        for i in range(0, d - 1, 2):
            core[i : i + 2, i : i + 2] = rates[i] * torch.tensor([[1.0, 0.5], [-0.5, 1.0]], dtype=torch.float64)
    if kind == "growing":
        core[0, 0] = 2.0
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    a, x = basis @ core @ basis.T, torch.randn(d, generator=generator, dtype=torch.float64)
    s = solved(lambda t, x: x @ a.T, x.tolist(), 1.0)
    assert tolerances(s, torch.linalg.matrix_exp(a) @ x) < 30
    assert s.nfe.item() < 3000
