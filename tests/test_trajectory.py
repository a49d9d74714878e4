import threading
import warnings

import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    HochbruckOstermann4,
    IntegrationError,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    Solution,
    Status,
    TorchDiffEq,
)
from dampode.integrators.exponential.stiffness import field_to_damping_ratio
from dampode.integrators.stiff_steps import StiffnessWarning
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced

ALL = [
    AdaptiveExponential(1e-8, 1e-10),
    HochbruckOstermann4(steps=30),
    TorchDiffEq("dopri5", rtol=1e-9, atol=1e-10),
]


def problem(lam=2.0):
    return DampedODEFunc(Forced(3), Constant(lam)), torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.parametrize("integrator", ALL, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("times", [[0.0, 0.5, 2.0], [2.0, 1.5, 0.5]], ids=["forward", "backward"])
def test_every_integrator_gives_one_trajectory(integrator, times):
    func, x = problem()
    t = torch.tensor(times, dtype=torch.float64)
    xs = odeint(func, x, t, integrator)
    assert xs.shape == (3, 4, 3)
    assert torch.equal(xs[0], x)
    torch.testing.assert_close(xs, odeint(func, x, t, Krogstad4(steps=200)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("integrator", ALL, ids=lambda i: type(i).__name__)
def test_a_solution_counts_the_calls_of_f(integrator):
    calls = []
    func = DampedODEFunc(lambda x: calls.append(1) or torch.sin(x), Constant(1.0))
    s = solve(func, torch.ones(2, 3, dtype=torch.float64), torch.linspace(0, 1, 4, dtype=torch.float64), integrator)
    assert isinstance(s, Solution)
    assert s.nfe.max() == len(calls)
    assert (s.nfe.shape, s.nfe.dtype) == ((2,), torch.int64)
    assert s.status == (Status.SUCCESS, Status.SUCCESS)
    assert s.reached.tolist() == pytest.approx([1.0, 1.0])
    assert s.failure() is None


def test_fixed_steps_count_per_output_interval():
    func, x = problem()
    t = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    s = solve(func, x, t, ExponentialEuler(steps=5))
    assert s.accepted.tolist() == [10] * 4
    assert s.rejected.tolist() == [0] * 4
    torch.testing.assert_close(s.x[1], ExponentialEuler(steps=5)(func, x, 0.0, 0.2))


def test_the_default_is_exponential_adams():
    func, x = problem()
    t = torch.linspace(0, 1, 3, dtype=torch.float64)
    assert torch.equal(odeint(func, x, t), odeint(func, x, t, ExponentialAdams()))


def test_fixed_step_times_carry_gradients():
    func, x = problem()
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(odeint(func, x, t, HochbruckOstermann4(steps=40))[-1].sum(), t)
    end = odeint(func, x, t.detach(), HochbruckOstermann4(steps=40))[-1]
    assert gradient[1].item() == pytest.approx(func(1.0, end).sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("t", "words"),
    [
        (torch.tensor([1.0]), "at least two times, got shape \\(1,\\)"),
        (torch.tensor([]), "at least two times"),
        (torch.zeros(2, 2, 2), "t must be \\(T,\\)"),
        (torch.tensor([0.0, 0.5, 0.5]), "got t\\[1\\] = 0.5 and t\\[2\\] = 0.5; sort it and drop repeated times"),
        (torch.tensor([0.0, 2.0, 1.0]), "got t\\[1\\] = 2 and t\\[2\\] = 1"),
        (torch.tensor([1.0, 1.0]), "increase strictly or decrease strictly"),
        (torch.tensor([0.0, torch.nan]), "t must be finite, got"),
        (torch.tensor([0.0, torch.inf]), "t must be finite"),
    ],
)
@pytest.mark.parametrize("call", [odeint, solve])
def test_bad_times(call, t, words):
    with pytest.raises(ValueError, match=words):
        call(*problem(), t)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.sin, torch.ones(1, 1), torch.ones(2)), "func must be of type DampedODEFunc, got builtin_function"),
        ((problem()[0], torch.ones(1, 1), [0.0, 1.0]), "t must be of type Tensor, got list; use torch.tensor"),
        ((problem()[0], torch.ones(1, 1), torch.tensor([0, 1])), "t must be floating, got dtype torch.int64"),
        ((problem()[0], torch.ones(1, 1, dtype=torch.int), torch.ones(2)), "the state x must be floating"),
        ((problem()[0], torch.ones(1, 1), torch.ones(2), "dopri5"), "integrator must be of type Integrator, got str"),
    ],
)
def test_bad_types(arguments, words):
    with pytest.raises(TypeError, match=words):
        odeint(*arguments)


def test_empty_state():
    with pytest.raises(ValueError, match="the state x must not be empty, got shape \\(0, 3\\)"):
        odeint(DampedODEFunc(torch.sin), torch.ones(0, 3), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), Krogstad4(2)], ids=lambda i: type(i).__name__)
def test_f_that_changes_shape_or_dtype(integrator):
    t = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="f must keep the state's shape"):
        odeint(DampedODEFunc(lambda x: x[:, :1]), torch.ones(2, 3), t, integrator)
    with pytest.raises(TypeError, match="f must keep the state's dtype"):
        odeint(DampedODEFunc(lambda x: x.double()), torch.ones(2, 3), t, integrator)


def test_a_fixed_step_solve_that_diverges_is_never_silent():
    func, x = DampedODEFunc(lambda x: x**3, Constant(0.0)), torch.tensor([[0.1], [50.0]])
    t = torch.linspace(0, 1, 5)
    s = solve(func, x, t, LinearizedEuler(steps=20))
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE)
    assert s.reached.tolist() == [1.0, 0.0]
    assert torch.isnan(s.x[1:, 1]).all()
    assert torch.equal(s.x[0], x)
    with pytest.raises(IntegrationError, match="1 of 2 samples failed, the first at index 1"):
        odeint(func, x, t, LinearizedEuler(steps=20))


def test_warns_with_the_measured_ratio_where_f_is_as_stiff_as_the_damping():
    x, t = torch.randn(2, 3, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    func = DampedODEFunc(Forced(3), Constant(300.0), one_plus)
    with pytest.warns(StiffnessWarning, match=r"measured ρ\|J\|/λ of sample \d is 0\.\d"):
        solve(func, x, t)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(DampedODEFunc(Forced(3), Constant(300.0)), x, t)
        solve(DampedODEFunc(Forced(3), Constant(1.0), one_plus), x, t)


def test_few_steps_along_a_slow_manifold_are_not_believed():
    """x' = −λx + (1 + λ) tanh x creeps where λ − ρJ is small: x moves little a step, and by its own size in all."""
    x, t = torch.tensor([[1.0, -0.3]], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    func = DampedODEFunc(torch.tanh, Constant(1e4), one_plus)
    with pytest.warns(StiffnessWarning, match="f itself is stiff|errors of such steps add up") as found:
        s = solve(func, x, t, AdaptiveExponential(1e-3, 1e-6))
    assert len(found) == 1
    exact = odeint(func, x, t, KenCarp4(1e-6, 1e-9))[-1]
    assert (s.x[-1] - exact).abs().max() < 0.5 * exact.abs().max()
    torch.testing.assert_close(odeint(func, x, t, KenCarp4(1e-4, 1e-7))[-1], exact, rtol=3e-3, atol=3e-6)


def test_field_to_damping_ratio_of_a_linear_field():
    func = DampedODEFunc(lambda x: -3.0 * x, Constant(torch.tensor([2.0, 6.0], dtype=torch.float64)), one_plus)
    ratio = field_to_damping_ratio(func, torch.ones(4, 2, dtype=torch.float64), torch.zeros(4, 1))
    torch.testing.assert_close(ratio, torch.full((4,), 3 * 7 / 6, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("integrator", [HochbruckOstermann4(steps=2), AdaptiveExponential(), TorchDiffEq()], ids=repr)
def test_a_short_interval_at_a_late_time(integrator):
    """float32 has a spacing of 0.06 at 1e6; a step's length must not be a difference of such numbers."""
    func, x = DampedODEFunc(torch.tanh, Constant(2.0)), torch.ones(2, 3)
    expected = integrator(func, x, 0.0, 0.01)
    torch.testing.assert_close(integrator(func, x, 1e6, 1e6 + 0.01), expected)
    times = torch.tensor([1e6, 1e6 + 0.01], dtype=torch.float64)
    torch.testing.assert_close(odeint(func, x, times, integrator)[-1], expected)


@pytest.mark.parametrize("integrator", [ExponentialEuler(), AdaptiveExponential(), TorchDiffEq()], ids=repr)
def test_an_integrator_called_by_itself_refuses_in_words(integrator):
    func = DampedODEFunc(torch.tanh, Constant(2.0))
    with pytest.raises(TypeError, match="func must be of type DampedODEFunc"):
        integrator(torch.tanh, torch.ones(2, 3), 0.0, 1.0)
    with pytest.raises(TypeError, match="the state x must be floating"):
        integrator(func, torch.ones(2, 3, dtype=torch.int64), 0.0, 1.0)
    with pytest.raises(ValueError, match="the state x must not be empty"):
        integrator(func, torch.ones(0, 3), 0.0, 1.0)


def test_times_that_the_dtype_does_not_resolve_are_warned_of():
    x, t = torch.ones(2, 2), torch.tensor([1e6, 1e6 + 10], dtype=torch.float64)
    with pytest.warns(UserWarning, match="rounds times near 1.00001e.06 by 0.1, of a span of 10"):
        odeint(DampedODEFunc(Forced(2), Constant(1.0)).float(), x, t, Krogstad4(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(DampedODEFunc(Forced(2), Constant(1.0)).double(), x.double(), t, Krogstad4(2))
        odeint(DampedODEFunc(torch.tanh, Constant(1.0)), x, t, Krogstad4(2))


def test_a_half_precision_state_on_a_span_from_0_is_not_warned_of():
    func, x = DampedODEFunc(Forced(2), Constant(1.0)).half(), torch.ones(2, 2, dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(func, x, torch.tensor([0.0, 1.0]), Krogstad4(2))
    with pytest.warns(UserWarning, match="rounds times near 6 by 0.006, of a span of 1"):
        odeint(func, x, torch.tensor([5.0, 6.0]), Krogstad4(2))


def test_the_settings_of_torchdiffeq_are_respelled():
    with pytest.raises(TypeError, match=r"Constant\(0\.0\)\), x0, t, TorchDiffEq\('rk4', rtol=0\.001\)\)"):
        odeint(torch.sin, torch.ones(2, 3), torch.tensor([0.0, 1.0]), method="rk4", rtol=1e-3)
    with pytest.raises(TypeError, match=r"got event_fn; .* odeint_event\(func, x0, \(t0, t1\), event\)"):
        odeint(*problem(), torch.tensor([0.0, 1.0]), event_fn=torch.sum)
    with pytest.raises(TypeError, match=r"f\(x\) alone is DampedODEFunc\(f, Constant\(0\.0\)\)"):
        odeint(torch.sin, torch.ones(2, 3), torch.tensor([0.0, 1.0]))


class Met(nn.Module):
    """sin x. Its first call waits until another thread has made all of its own calls."""

    def __init__(self):
        super().__init__()
        self.waited = False

    def forward(self, x):
        if threading.current_thread() is threading.main_thread() and not self.waited:
            self.waited = True
            other = threading.Thread(target=lambda: [self.whole(0.0, x) for _ in range(9)])
            other.start()
            other.join()
        return torch.sin(x)


@pytest.mark.parametrize("integrator", [Krogstad4(2), TorchDiffEq("rk4"), AdaptiveExponential()], ids=repr)
def test_calls_of_other_threads_are_not_counted(integrator):
    x, t = torch.ones(1, 3), torch.tensor([0.0, 1.0])
    func, quiet = (DampedODEFunc(f, Constant(1.0)) for f in (Met(), torch.sin))
    object.__setattr__(func.f.f, "whole", func.f)  # which no module holds as its part
    assert solve(func, x, t, integrator).nfe.tolist() == solve(quiet, x, t, integrator).nfe.tolist()


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4(), TorchDiffEq("dopri5")], ids=repr)
def test_a_tolerance_is_not_promised_in_half_precision(integrator):
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(TypeError, match="a tolerance needs a float32 or float64 state"):
            integrator(DampedODEFunc(torch.tanh, Constant(2.0)), torch.ones(2, 3, dtype=dtype), 0.0, 1.0)


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4()])
def test_one_system_is_no_batch_of_numbers(integrator):
    """With steps of their own, the parts of a system would be at different times."""
    turn, t = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]), torch.tensor([0.0, 2.0])
    down = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    for matrix in (turn, down, down.T):
        func = DampedODEFunc(lambda x, matrix=matrix: x @ matrix, Constant(0.0))
        with pytest.raises(ValueError, match=r"one system is x\[None\], of shape \(1, 2\)"):
            odeint(func, torch.tensor([2.0, 1.0]), t, integrator)
        expected = torch.tensor([[2.0, 1.0]]) @ torch.linalg.matrix_exp(2 * matrix)
        torch.testing.assert_close(
            odeint(func, torch.tensor([[2.0, 1.0]]), t, integrator)[-1], expected, rtol=1e-3, atol=1e-3
        )
    x = torch.tensor([0.5, 1.0, 2.0])
    alone = odeint(DampedODEFunc(torch.sin, Constant(1.0)), x[:, None], t, integrator)[..., 0]
    torch.testing.assert_close(odeint(DampedODEFunc(torch.sin, Constant(1.0)), x, t, integrator), alone)


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), TorchDiffEq("dopri5"), ExponentialEuler(2, recompute=1)])
def test_meta_tensors_are_refused(integrator):
    x = torch.randn(2, 3, device="meta")
    func = DampedODEFunc(torch.tanh, Constant(1.0))
    with pytest.raises(ValueError, match="a solve reads values, got a tensor on the meta device"):
        odeint(func, x, torch.tensor([0.0, 1.0]), integrator)
    assert DampedBlock(torch.tanh, integrator=ExponentialEuler(2, recompute=1))(x).is_meta
