"""Times of each sample: one solve equals a solve per sample, and padding changes nothing."""

import pytest
import torch

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    HochbruckOstermann4,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    TorchDiffEq,
)
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced

NAN = float("nan")
FIXED = [LinearizedEuler(3), ExponentialEuler(2), HochbruckOstermann4(2), Krogstad4(4, recompute=2)]
ADAPTIVE = [
    AdaptiveExponential(1e-7, 1e-9),
    AdaptiveExponential(1e-7, 1e-9, recompute=3),
    KenCarp4(1e-6, 1e-8),
    ExponentialAdams(1e-7, 1e-9),
    ExponentialAdams(1e-7, 1e-9, recompute=3),
]
by_repr = {"ids": repr}


def times(backward=False):
    t = torch.tensor(
        [[0.0, 0.3, 0.7, 2.0], [0.5, 0.6, 1.0, NAN], [-1.0, 1.5, NAN, NAN], [0.2, NAN, NAN, NAN]], dtype=torch.float64
    )
    return -t if backward else t


def problem(damping=None):
    torch.manual_seed(0)
    func = DampedODEFunc(Forced(3), damping or Learned(0.5, 0.9)).double()
    return func, torch.randn(4, 3, dtype=torch.float64)


def tolerance(integrator):
    """How near the states of one solve are to those of a solve per sample: no sample changes the steps of another."""
    return {"rtol": 1e-12, "atol": 1e-12} if integrator in FIXED else {"rtol": 1e-10, "atol": 1e-10}


def gradient_tolerance(integrator):
    """The same for gradients.

    The backward pass of KenCarp4 solves linear equations to a tenth of the tolerance, by iterations that end when all
    samples of a batch are solved. So its gradients agree to the tolerance only.
    """
    return {"rtol": 1e-5, "atol": 1e-6} if isinstance(integrator, KenCarp4) else tolerance(integrator)


def one_by_one(func, x, t, integrator):
    """The states, and after a row's last time that state again."""
    rows = []
    for n in range(len(x)):
        row = t[n][~torch.isnan(t[n])]
        xs = odeint(func, x[n : n + 1], row, integrator) if len(row) > 1 else x[None, n : n + 1]
        rows.append(torch.cat((xs, xs[-1:].repeat(t.shape[1] - len(row), *[1] * x.ndim))))
    return torch.cat(rows, 1)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("damping", [None, Gated(3)], ids=["learned", "gated"])
@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_one_solve_equals_a_solve_per_sample(integrator, damping, backward):
    func, x = problem(damping)
    x.requires_grad_()
    inputs = [x, *func.parameters()]
    xs, singly = (call(func, x, times(backward), integrator) for call in (odeint, one_by_one))
    torch.testing.assert_close(xs, singly, **tolerance(integrator))
    weight = torch.randn_like(xs)
    together, alone = (torch.autograd.grad((weight * states).sum(), inputs) for states in (xs, singly))
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, **gradient_tolerance(integrator))


@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_padding_changes_nothing(integrator):
    func, x = problem()
    t = times()[:2, :3]
    padded = torch.cat((t, torch.full((2, 2), NAN, dtype=t.dtype)), 1)
    xs, more = (odeint(func, x[:2], t, integrator) for t in (t, padded))
    torch.testing.assert_close(more[:3], xs, rtol=1e-13, atol=1e-13)
    assert torch.equal(more[3:], xs[-1].expand(2, -1, -1))


@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_a_masked_loss_has_the_gradients_of_the_unpadded_solve(integrator):
    func, x = problem()
    t = times().requires_grad_()
    xs = odeint(func, x.requires_grad_(), t, integrator)
    given = ~torch.isnan(t)
    loss = torch.where(given.T[..., None], xs, 0.0).square().sum()
    in_time, *gradients = torch.autograd.grad(loss, [t, x, *func.parameters()])
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert bool((in_time[~given] == 0).all())
    for n in range(3):
        row = t[n][given[n]].detach().requires_grad_()
        (alone,) = torch.autograd.grad(odeint(func, x[n : n + 1], row, integrator).square().sum(), row)
        torch.testing.assert_close(in_time[n][given[n]], alone, **gradient_tolerance(integrator))


@pytest.mark.parametrize("integrator", [*ADAPTIVE, HochbruckOstermann4(20)], **by_repr)
def test_time_gradients_against_finite_differences(integrator):
    func, x = problem()
    func.requires_grad_(False)
    t = times().requires_grad_()

    def loss(t):
        return odeint(func, x, t, integrator).cos().sum()

    (got,) = torch.autograd.grad(loss(t), t)
    for n, k in [(0, 0), (0, 2), (1, 2), (2, 0)]:
        shift = torch.zeros_like(t)
        shift[n, k] = 1e-4
        with torch.no_grad():
            slope = (loss(t + shift) - loss(t - shift)) / 2e-4
        assert got[n, k].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_equal_rows_equal_shared_times(integrator):
    func, x = problem()
    t = times()[0]
    shared, own = odeint(func, x, t, integrator), odeint(func, x, t.expand(4, -1), integrator)
    torch.testing.assert_close(own, shared, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("integrator", FIXED[:1] + ADAPTIVE, **by_repr)
def test_images_and_float32(integrator):
    func, x = DampedODEFunc(torch.sin, Constant(torch.full((2, 1, 1), 0.5))), torch.rand(4, 2, 3, 3)
    t = times().float()
    kinder = integrator if integrator in FIXED else type(integrator)(1e-4, 1e-5)
    torch.testing.assert_close(odeint(func, x, t, kinder), one_by_one(func, x, t, kinder), rtol=1e-4, atol=1e-5)


def test_the_batch_costs_what_its_longest_sample_costs():
    calls = []
    func = DampedODEFunc(lambda x: calls.append(1) or torch.sin(3 * x), Constant(1.0))
    x = torch.ones(5, 2, dtype=torch.float64)
    t = torch.tensor([[0.0, 8.0]], dtype=torch.float64) * torch.linspace(0.2, 1, 5, dtype=torch.float64)[:, None]
    s = solve(func, x, t)
    assert len(calls) == s.nfe.max() == s.nfe[4]
    assert s.nfe[0] < s.nfe[4]
    assert s.reached.tolist() == pytest.approx(t[:, 1].tolist())
    assert torch.equal(s.t, t)


def test_a_solution_keeps_the_times_as_given():
    func, x = problem()
    for integrator in (Krogstad4(2), AdaptiveExponential()):
        s = solve(func, x, times(), integrator)
        torch.testing.assert_close(s.t, times(), equal_nan=True)
        assert s.reached.tolist() == pytest.approx([2.0, 1.0, 1.5, 0.2])
        assert s.failure() is None


def test_a_sample_that_fails_leaves_the_others_alone():
    func = DampedODEFunc(lambda x: x**2, Constant(0.0))
    t = torch.tensor([[0.0, 0.5, 0.9], [0.0, 0.5, 2.0]], dtype=torch.float64)
    s = solve(func, torch.ones(2, 1, dtype=torch.float64), t, ExponentialAdams(1e-6, 1e-8))
    assert [status.name for status in s.status] == ["SUCCESS", "STEP_UNDERFLOW"]
    torch.testing.assert_close(s.x[:, 0, 0], 1 / (1 - t[0]), rtol=1e-3, atol=0)
    assert torch.isnan(s.x[2, 1]).all()


@pytest.mark.parametrize("integrator", [Krogstad4(2), LinearizedEuler(3)], **by_repr)
def test_fixed_steps_compile_in_one_graph(integrator):
    func, x = problem()
    compiled = torch.compile(lambda x, t: odeint(func, x, t, integrator), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, times()), odeint(func, x, times(), integrator))


@pytest.mark.slow
def test_an_adaptive_solve_compiles_its_steps():
    func, x = problem()
    with torch.no_grad():
        got = odeint(func, x, times(), AdaptiveExponential(1e-7, 1e-9, compile=True))
        torch.testing.assert_close(got, odeint(func, x, times(), AdaptiveExponential(1e-7, 1e-9)))


def test_progress_of_times_of_each_sample(capsys):
    func, x = problem()
    odeint(func, x, times(), AdaptiveExponential(progress=True))
    assert "2.5/2.5" in capsys.readouterr().err


def test_stiffness_is_measured_at_times_of_each_sample():
    func = DampedODEFunc(Forced(3), Constant(300.0), one_plus)
    t = torch.tensor([[0.0, 1.0], [0.5, 1.0]], dtype=torch.float64)
    with pytest.warns(StiffnessWarning, match="measured ρ"):
        solve(func, torch.randn(2, 3, dtype=torch.float64), t)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.0, 1.0], [0.0, 1.0]], "t of shape \\(N, T\\) must have a row per sample, got 2 rows for 1 samples"),
        ([[0.0, NAN, 1.0]], "NaN only at the end of a row, as padding, got NaN in row 0, column 1 before 1"),
        ([[NAN, NAN]], "t must give every sample its first time, got NaN alone in row 0"),
        ([[0.0, 1.0, 1.0]], "got t\\[0, 1\\] = 1 and t\\[0, 2\\] = 1; sort it"),
        ([[0.0, 1.0, 0.5]], "got t\\[0, 1\\] = 1 and t\\[0, 2\\] = 0.5"),
        ([[0.0, float("inf")]], "t must be finite, got inf in row 0, column 1; pad with NaN"),
    ],
)
@pytest.mark.parametrize("call", [odeint, solve])
def test_bad_times_of_each_sample(call, rows, words):
    func, x = problem()
    with pytest.raises(ValueError, match=words):
        call(func, x[:1], torch.tensor(rows, dtype=torch.float64))


def test_rows_must_run_in_one_direction():
    func, x = problem()
    t = torch.tensor([[0.0, NAN], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="increase in row 2 and decrease in row 1; solve the two groups"):
        odeint(func, x, t)
    t[2:] = t[1]
    assert torch.equal(odeint(func, x, t)[-1, 0], x[0])


def test_torchdiffeq_refuses_times_of_each_sample():
    for call in (odeint, solve):
        with pytest.raises(ValueError, match="TorchDiffEq takes one step for the whole batch, so t must be \\(T,\\)"):
            call(*problem(), times(), TorchDiffEq())
