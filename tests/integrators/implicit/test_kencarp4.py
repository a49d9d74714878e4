"""KenCarp4: against SciPy's Radau, its calls where ρ = 1 + λ, derivatives, statuses; GMRES and the secants alone."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn
from torch.autograd import grad

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, IntegrationError, KenCarp4, Status
from dampode.integrators.implicit import gradients
from dampode.integrators.implicit.krylov import gmres_and_remainder
from dampode.integrators.implicit.quasi_newton import SecantPairs
from dampode.integrators.implicit.tableau import EMBEDDED, GAMMA, NODES, ROWS, WEIGHTS, hermite, predictors
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced

T = torch.tensor([0.0, 1e-3, 0.1, 0.5, 1.0], dtype=torch.float64)


def radau(func, x, t):
    def rhs(s, y):
        with torch.no_grad():
            return func(s, torch.from_numpy(y).view_as(x)).numpy().ravel()

    span = (t[0].item(), t[-1].item())
    solution = solve_ivp(rhs, span, x.numpy().ravel(), "Radau", t.numpy(), rtol=1e-9, atol=1e-11)
    return torch.from_numpy(solution.y.T.copy()).view(len(t), *x.shape)


@pytest.mark.parametrize("kind", ["number", "channels", "gated"])
def test_agrees_with_radau(kind):
    channels = torch.logspace(-1, 3, 4)
    damping = {"number": Constant(300.0), "channels": Constant(channels), "gated": Gated(4, act=torch.relu)}[kind]
    func, x = DampedODEFunc(Forced(4), damping.double(), one_plus), torch.randn(2, 4, dtype=torch.float64)
    with torch.no_grad():
        got = odeint(func, x, T, KenCarp4(1e-5, 1e-7))
        torch.testing.assert_close(got, radau(func, x, T), rtol=3e-4, atol=1e-4)


def test_a_number_a_sample_is_a_state():
    """(N,) is what (N, 1) is, gradients included."""
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    func, x = DampedODEFunc(torch.sin, Constant(100.0), one_plus), torch.randn(3, dtype=torch.float64)
    results = []
    for shape in ((3,), (3, 1)):
        start = x.reshape(shape).requires_grad_()
        xs = odeint(func, start, t, KenCarp4(1e-6, 1e-8))
        results.append((xs.reshape(3, 3), grad(xs[1].sum(), start)[0].reshape(3)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_calls_are_flat_where_rho_grows_with_lambda():
    """dopri5 takes 2.6 calls for every unit of λt here."""
    x, calls = torch.randn(2, 8, dtype=torch.float64), []
    for lam in (1e2, 1e4):
        func = DampedODEFunc(Forced(8), Constant(lam), one_plus)
        with torch.no_grad():
            calls.append(solve(func, x, T, KenCarp4(1e-4, 1e-6)).nfe.max().item())
    assert calls[1] < 3 * calls[0]
    assert calls[1] < 2.6e4 / 20


def test_the_tableau_is_of_order_four():
    rows = [torch.tensor([*row, GAMMA, 0, 0, 0, 0, 0][:6] if row else [0.0] * 6, dtype=torch.float64) for row in ROWS]
    a, c = torch.stack(rows), torch.tensor(NODES, dtype=torch.float64)
    b, embedded = torch.tensor(WEIGHTS, dtype=torch.float64), torch.tensor(EMBEDDED, dtype=torch.float64)
    torch.testing.assert_close(a.sum(1), c)
    torch.testing.assert_close(a[1:] @ c, c[1:] ** 2 / 2)  # stage order 2
    for power, want in enumerate((1, 1 / 2, 1 / 3, 1 / 4)):
        assert (b @ c**power).item() == pytest.approx(want, abs=1e-14)
    for power, want in enumerate((1, 1 / 2, 1 / 3)):
        assert (embedded @ c**power).item() == pytest.approx(want, abs=1e-13)
    for product, want in ((a @ c, 1 / 6), (c * (a @ c), 1 / 8), (a @ c**2, 1 / 12), (a @ (a @ c), 1 / 24)):
        assert (b @ product).item() == pytest.approx(want, abs=1e-13)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_stages_of_a_polynomial_are_predicted(degree, ratio):
    """The stages of x' = k t^(k−1): exact for k <= 2; for k = 3 with the error of the method's quadrature."""
    stages = [0.0**degree]
    for row, node in zip(ROWS[1:], NODES[1:], strict=True):
        slopes = [degree * c ** (degree - 1) if degree else 0.0 for c in (*NODES[: len(row)], node)]
        stages.append(stages[0] + sum(a * s for a, s in zip((*row, GAMMA), slopes, strict=True)))
    start_slope = 1.0 if degree == 1 else 0.0
    before = (-ratio) ** degree, ratio * (degree * (-ratio) ** (degree - 1) if degree else 0.0)
    rows = torch.tensor([*before, *stages, start_slope], dtype=torch.float64)
    for cubic in (False, True):
        found = predictors(rows.new_tensor([[ratio]]), torch.tensor([[cubic]]))[0] @ rows
        torch.testing.assert_close(found[1:], rows[4:8])
        if degree < 3:
            torch.testing.assert_close(found[0], rows[3])
        elif cubic:
            torch.testing.assert_close(found[0], rows.new_tensor(NODES[1] ** 3))


def test_hermite_is_exact_for_a_cubic():
    theta, one = torch.tensor([[0.3]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    torch.testing.assert_close(hermite(theta, one, 0 * one, 2 * one, 3 * one), 1 + theta**3)


@pytest.mark.parametrize("gated", [False, True])
def test_first_and_second_derivatives_match_a_tight_explicit_solve(gated):
    damping = Gated(2).double() if gated else Learned(3.0, 6.0, shape=(2,)).double()
    func = DampedODEFunc(Forced(2), damping, one_plus)
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 0.2, 0.35], dtype=torch.float64, requires_grad=True)
    inputs, found = (x, t, *func.parameters()), []
    for integrator in (KenCarp4(1e-6, 1e-8), AdaptiveExponential(1e-8, 1e-10)):
        xs = odeint(func, x, t, integrator)
        firsts = grad(xs[1:].sin().sum(), inputs, create_graph=True)
        found.append((firsts, grad(sum(g.square().sum() for g in firsts), inputs)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


def test_gradients_leave_the_states_as_they_are_and_cost_a_solve_a_stage(monkeypatch):
    """First derivatives leave nothing to the first of two chord steps; products do not pass over earlier steps."""
    func = DampedODEFunc(Forced(3), Learned(80.0, 90.0).double(), one_plus)
    x, solves, nodes = torch.randn(1, 3, dtype=torch.float64), [], []
    original = gradients.gmres
    monkeypatch.setattr(gradients, "gmres", lambda *a: solves.append(1) or original(*a))
    pulled = gradients._NewtonMatrix._vjp
    monkeypatch.setattr(
        gradients._NewtonMatrix,
        "_vjp",
        lambda self, *a: nodes.append(graph_size(self._n)) or pulled(self, *a),
    )
    with torch.no_grad():
        want = solve(func, x, T, KenCarp4())
    s = solve(func, x, T, KenCarp4())
    torch.testing.assert_close(s.x, want.x, rtol=1e-12, atol=1e-12)  # but for dense output, to the last bit
    torch.testing.assert_close(s.nfe, want.nfe + 1 + 10 * want.accepted)
    grad(s.x[-1].sum(), func.f.w)
    assert len(solves) == 5 * s.accepted.item()
    assert max(nodes) < 20


def graph_size(value):
    """Nodes that a derivative of a value passes over."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    return len(seen)


def test_gradients_with_strong_damping_match_finite_differences():
    func = DampedODEFunc(Forced(3), Learned(80.0, 90.0, shape=(3,)).double(), one_plus)
    x, integrator = torch.randn(1, 3, dtype=torch.float64), KenCarp4(1e-5, 1e-7)

    def loss():
        return integrator(func, x, 0.0, 0.1).sin().sum()

    gradient = grad(loss(), func.f.w)[0]
    with torch.no_grad():
        flat, eps = func.f.w.view(-1), 1e-3
        flat[1] += eps
        up = loss()
        flat[1] -= 2 * eps
        down = loss()
        flat[1] += eps
    assert ((up - down) / (2 * eps)).item() == pytest.approx(gradient.flatten()[1].item(), rel=1e-3, abs=1e-4)


def test_gradients_of_a_field_of_time_alone():
    """x' = −λx + 1 with x(0) = 0: x(1) = (1 − e^{−λ}) / λ."""
    func = DampedODEFunc(lambda x: torch.ones_like(x), Learned(2.0, 2.0).double())
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    y = KenCarp4(1e-7, 1e-9)(func, x, 0.0, 1.0)
    by_x, by_lam = grad(y[0, 0], (x, func.damping.raw))
    assert by_x[0, 0].item() == pytest.approx(math.exp(-2), rel=1e-5)
    assert by_lam.item() == pytest.approx((3 * math.exp(-2) - 1) / 4, rel=1e-5)


def test_batch_mates_do_not_influence_one_another():
    func, x = DampedODEFunc(Forced(3), Constant(50.0), one_plus), torch.randn(3, 3, dtype=torch.float64)
    x[0] *= 20
    with torch.no_grad():
        together = solve(func, x, T, KenCarp4())
        alone = [solve(func, sample[None], T, KenCarp4()) for sample in x]
    for n, one in enumerate(alone):
        torch.testing.assert_close(together.x[:, n : n + 1], one.x, rtol=1e-3, atol=1e-4)
        assert together.status[n] is one.status[0] is Status.SUCCESS


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.slow
def test_a_compiled_iteration_gives_the_same_states_and_gradients():
    x, found = torch.randn(2, 3, dtype=torch.float64), []
    func = DampedODEFunc(Forced(3), Constant(50.0), one_plus)
    for compile in (False, True):
        s = solve(func, x, T, KenCarp4(1e-5, 1e-7, compile=compile))
        assert s.failure() is None
        found.append((s.x, grad(s.x[-1].square().sum(), func.f.w)[0]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)  # a rounding error may cost an iteration


def test_calls_are_counted():
    calls = []
    func = DampedODEFunc(lambda x: calls.append(1) or torch.sin(x), Constant(20.0), one_plus)
    x = torch.ones(1, 3, dtype=torch.float64)
    with torch.no_grad():
        s = solve(func, x, T, KenCarp4())
    assert s.nfe.tolist() == [len(calls)]


# failures ------------------------------------------------------------------------------------------------------


def test_an_inner_solve_that_cannot_converge_is_said():
    """A field that is as good as random, and so large that no step is short enough."""
    func = DampedODEFunc(lambda x: 1e30 * torch.cos(1e15 * (x + torch.arange(64)).cos()), Constant(0.0))
    x, t = torch.zeros(1, 64, dtype=torch.float64), torch.tensor([0.0, 1.0])
    s = solve(func, x, t, KenCarp4(first_step=0.1))
    assert s.status == (Status.INNER_SOLVE_FAILED,)
    with pytest.raises(IntegrationError, match="equations of an implicit step did not converge however short"):
        odeint(func, x, t, KenCarp4(first_step=0.1))


class NaNAfter(VectorField):
    """f(x, t) = −x, NaN for one sample after t = 0.5."""

    def forward(self, t, x):
        late = (torch.as_tensor(t) > 0.5) & (torch.arange(len(x))[:, None] == 1)
        return torch.where(late, torch.nan, -x)


def test_nan_from_f_is_no_inner_solve_that_failed():
    func, x = DampedODEFunc(NaNAfter(), Constant(1.0)), torch.ones(3, 2, dtype=torch.float64)
    s = solve(func, x, torch.tensor([0.0, 2.0]), KenCarp4())
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS)
    assert s.reached[1].item() == pytest.approx(0.5, abs=1e-6)
    assert s.accepted[1] + s.rejected[1] < 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "span", [(1.0, 1.001), (5.0, 5.0001), (1e3, 1e3 + 1e-3), (0.0, 1e-9), (-3.0, -2.9999), (2.0, 1.9)]
)
def test_short_intervals_away_from_zero(span, dtype):
    """Where rounding left a last step that could not advance t, its equations seemed not to converge."""
    x = KenCarp4()(DampedODEFunc(lambda x: -x, Constant(0.0)), torch.ones(2, 2, dtype=dtype), *span)
    torch.testing.assert_close(x, torch.full_like(x, math.exp(span[0] - span[1])), rtol=0, atol=1e-5)


def test_statuses_per_sample():
    x = torch.tensor([[1.0], [torch.nan]], dtype=torch.float64)
    s = solve(DampedODEFunc(torch.sin, Constant(1.0)), x, T, KenCarp4())
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE)
    assert torch.isfinite(s.x[:, 0]).all()
    s = solve(DampedODEFunc(torch.sin, Constant(1.0)), x, T, KenCarp4(max_steps=2))
    assert s.status[0] is Status.MAX_STEPS
    back = torch.tensor([1.0, 0.0])
    assert solve(DampedODEFunc(torch.sin, Constant(1e3)), x[:1], back, KenCarp4()).status == (Status.OVERFLOW,)


def test_compile_is_a_bool():
    with pytest.raises(TypeError, match="compile must be"):
        KenCarp4(compile=1)


@pytest.mark.parametrize("settings", [{"rtol": 0.0}, {"atol": -1.0}, {"max_steps": 0}, {"first_step": 0.0}])
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="must be"):
        KenCarp4(**settings)


# inner solvers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [3, 40])
def test_gmres_against_a_dense_solve(restart):
    a = torch.eye(6, dtype=torch.float64) + 0.15 * torch.randn(3, 6, 6, dtype=torch.float64)
    b = torch.randn(3, 6, dtype=torch.float64)
    b[1] = 0
    got = gmres_and_remainder(lambda v: (a @ v[:, :, None])[:, :, 0], b, 1e-10 * b.norm(dim=1), restart, 60)[0]
    torch.testing.assert_close(got, torch.linalg.solve(a, b), rtol=1e-8, atol=1e-9)


def test_secants_that_span_the_space_solve_a_linear_equation():
    j, g = torch.randn(2, 4, 4, dtype=torch.float64) / 2, torch.rand(1, 4, dtype=torch.float64)
    r, secants = torch.randn(2, 4, dtype=torch.float64), SecantPairs.empty(torch.zeros(2, 4, dtype=torch.float64))
    used = torch.ones(2, 1, dtype=torch.bool)
    torch.testing.assert_close(secants.correction(r, r, ~used, r, g), r)
    torch.testing.assert_close(secants.correction(0 * r, r, used, r, g), r)  # no move, no pair
    for _ in range(6):
        move = torch.randn(2, 4, dtype=torch.float64)
        got = secants.correction(move, (j @ move[:, :, None])[:, :, 0], used, r, g)
    want = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - g[0, :, None] * j, r)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    one = torch.full((2, 1), 0.3, dtype=torch.float64)
    got = secants.correction(move, r, ~used, r, one)
    want = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - 0.3 * j, r)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


def test_autocast_around_a_solve():
    func, x = DampedODEFunc(nn.Linear(3, 3), Constant(2.0)), torch.ones(2, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = KenCarp4(rtol=1e-2, atol=1e-2)(func, x, 0.0, 1.0)
    torch.testing.assert_close(y, KenCarp4()(func, x, 0.0, 1.0), rtol=0.05, atol=0.05)
    assert bool(torch.isfinite(grad(y.sum(), x)[0]).all())
