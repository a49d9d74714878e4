"""Adaptive solves stop at the breaks of their inputs: piecewise closed forms, short pulses, both directions."""

import pytest
import torch

from dampode import DampedODEFunc, Jumps, odeint, paths, solve
from dampode.damping import Constant, Damping
from dampode.fields import Driven, TimeDependent
from dampode.integrators import ETD2RK, AdaptiveExponential, HochbruckOstermann4, KenCarp4, Krogstad4, TorchDiffEq

EXPONENTIAL = AdaptiveExponential(rtol=1e-12, atol=1e-13)
to_tolerance = pytest.mark.parametrize(
    "integrator",
    [AdaptiveExponential(1e-7, 1e-9), AdaptiveExponential(1e-7, 1e-9, recompute=2), KenCarp4(1e-7, 1e-9)],
    ids=["exponential", "recompute", "implicit"],
)
LAM = 0.7


def driven(times, values, lam=LAM):
    return DampedODEFunc(Driven(lambda t, x, u: u, paths.Held(times, values)), Constant(lam))


def held_solution(times, values, x, t0, t1, lam=LAM):
    """x' = −λ x + u of one sample, one channel, from t0 to t1, piece by piece."""
    sign = 1 if t1 > t0 else -1
    inner = sorted((s for s in times.tolist() if min(t0, t1) < s < max(t0, t1)), reverse=sign < 0)
    for a, b in zip([t0, *inner], [*inner, t1], strict=True):
        u = values[int((times <= (a + b) / 2).sum()) - 1]
        x = u / lam + (x - u / lam) * torch.exp(torch.tensor(-lam * (b - a), dtype=torch.float64))
    return x


def inputs(n=5, count=7, seed=3, start=0.1):
    generator = torch.Generator().manual_seed(seed)
    times = start + torch.rand(n, count, generator=generator, dtype=torch.float64).mul(0.7).cumsum(1)
    times[:, 0] = start - 0.3
    return times, torch.randn(n, count, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("t0", "t1"), [(0.1, 3.3), (3.3, 0.1)])
@pytest.mark.parametrize("seed", range(4))
def test_a_held_input_gives_the_piecewise_closed_form(t0, t1, seed):
    times, values = inputs(seed=seed)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    t = torch.tensor([t0, t1], dtype=torch.float64)
    got = odeint(driven(times, values), x, t, EXPONENTIAL)[-1]
    want = torch.stack([held_solution(times[n], values[n, :, 0], x[n], t0, t1) for n in range(5)])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reverse", [False, True])
@to_tolerance
def test_breaks_at_the_ends_of_the_solve_belong_to_the_other_side(integrator, reverse):
    """From break to break: u is 1 between them, and huge before and after."""
    for start in (0.1, 0.3, 1.7, -0.6):
        times = torch.tensor([start - 1, start, start + 0.7], dtype=torch.float64)
        values = torch.tensor([[[1e3], [1.0], [-1e3]]], dtype=torch.float64)
        t = times[1:].flip(0) if reverse else times[1:]
        s = solve(driven(times, values), torch.ones(1, 1, dtype=torch.float64), t, integrator)
        want = held_solution(times, values[0, :, 0], torch.ones(1, dtype=torch.float64), t[0].item(), t[1].item())
        torch.testing.assert_close(s.x[-1, 0], want, rtol=1e-6, atol=1e-7)
        assert s.rejected.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@to_tolerance
def test_a_pulse_that_is_short_beside_the_steps_is_not_missed(integrator, dtype):
    """A dose of 1 within 10⁻⁴, in the middle of steps that would each be long."""
    times = torch.tensor([0.0, 3.0, 3.0001], dtype=torch.float64)
    values = torch.tensor([[[0.0], [1e4], [0.0]]], dtype=torch.float64)
    x, t = torch.zeros(1, 1, dtype=dtype), torch.tensor([0.0, 8.0], dtype=torch.float64)
    got = odeint(driven(times, values), x, t, integrator)[-1].double()
    want = held_solution(times, values[0, :, 0], torch.zeros(1, dtype=torch.float64), 0.0, 8.0)
    assert want > 0.02
    torch.testing.assert_close(got[0], want, rtol=1e-5 if dtype == torch.float64 else 1e-2, atol=0)


@to_tolerance
def test_gradients_reach_the_input(integrator):
    """x(1) with u = u_0 before and u_1 after 0.4: ∂x/∂u_k is the response to a unit step."""
    times = torch.tensor([0.0, 0.4], dtype=torch.float64)
    values = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    func = driven(times, values)
    func.f.scale = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    func.f.f = lambda t, x, u: u * torch.where(torch.as_tensor(t) < 0.4, func.f.scale[0], func.f.scale[1])
    x = torch.zeros(1, 1, dtype=torch.float64)
    odeint(func, x, torch.tensor([0.0, 1.0], dtype=torch.float64), integrator)[-1].sum().backward()
    decay = torch.exp(torch.tensor([-LAM, -LAM * 0.6], dtype=torch.float64))
    want = torch.stack(((decay[1] - decay[0]) / LAM, 2 * (1 - decay[1]) / LAM))
    torch.testing.assert_close(func.f.scale.grad, want, rtol=1e-5, atol=1e-6)


def test_values_of_a_path_may_come_from_a_network():
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    values = torch.tensor([[[1.0], [2.0], [0.5]]], dtype=torch.float64, requires_grad=True)
    x, t = torch.zeros(1, 1, dtype=torch.float64), times[[0, 2]]
    assert torch.autograd.gradcheck(
        lambda v: odeint(
            DampedODEFunc(Driven(lambda t, x, u: u, paths.Linear(times, v)), Constant(LAM)), x, t, EXPONENTIAL
        ),
        (values,),
    )


class Gate(Damping):
    """λ(t) = u(t)."""

    depends_on_state, depends_on_time = False, True

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, t, x):
        return self.path(t).to(x)


@to_tolerance
def test_an_input_may_gate_the_damping(integrator):
    times = torch.tensor([0.0, 0.5, 0.8], dtype=torch.float64)
    values = torch.tensor([[[1.0], [30.0], [0.2]]], dtype=torch.float64)
    func = DampedODEFunc(torch.zeros_like, Gate(paths.Held(times, values)))
    t = torch.tensor([0.2, 1.0], dtype=torch.float64)
    x = solve(func, torch.ones(1, 1, dtype=torch.float64), t, integrator)
    want = torch.exp(torch.tensor(-(0.3 + 9.0 + 0.04), dtype=torch.float64))
    torch.testing.assert_close(x.x[-1, 0, 0], want, rtol=1e-4, atol=1e-8)
    assert x.rejected.item() <= 3


def growing(times, values):
    """x' = (u − λ) x."""
    return DampedODEFunc(Driven(lambda t, x, u: u * x, paths.Held(times, values)), Constant(LAM))


def integral(times, values, t0, t1):
    """∫ u dt of one sample from t0 to t1, for piecewise constant u."""
    grid = times.new_tensor(sorted({t0, t1, *times.tolist()}))
    grid = grid[(grid >= min(t0, t1)) & (grid <= max(t0, t1))]
    level = values[torch.searchsorted(times, (grid[1:] + grid[:-1]) / 2) - 1]
    return (1 if t1 > t0 else -1) * (level * grid.diff()).sum()


@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
@pytest.mark.parametrize(("t0", "t1"), [(0.1, 3.3), (3.3, 0.1)])
@pytest.mark.parametrize("method", [ETD2RK, Krogstad4, HochbruckOstermann4])
def test_fixed_steps_keep_their_order_over_a_held_input(method, t0, t1, per_sample):
    times, values = inputs()
    x = torch.ones(5, 1, dtype=torch.float64)
    t = torch.tensor([t0, 1.7, t1], dtype=torch.float64)
    t = t.expand(5, -1) if per_sample else t
    total = torch.stack([integral(times[n], values[n, :, 0], t0, t1) for n in range(5)])
    want = torch.exp(total - LAM * (t1 - t0))[:, None]
    coarse, fine = ((odeint(growing(times, values), x, t, method(n))[-1] / want - 1).abs().max() for n in (4, 8))
    assert (coarse / fine).log2() > method.order - 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("integrator", [Krogstad4(1), Krogstad4(2, recompute=2)], ids=["plain", "recompute"])
def test_fixed_steps_see_one_side_of_a_break(integrator, reverse, dtype):
    """u is huge before and after the solve; between its breaks the step is exact, so any value of u outside shows."""
    for start in (0.1, 0.3, 1.7, -0.6):
        times = torch.tensor([start - 1, start, start + 0.4, start + 0.7, start + 2], dtype=torch.float64)
        values = torch.tensor([[[1e6], [1.0], [-2.0], [-1e6], [1e6]]], dtype=torch.float64)
        ends = times[[3, 1]] if reverse else times[[1, 3]]
        func, x = driven(times, values), torch.ones(1, 1, dtype=dtype)
        want = held_solution(times, values[0, :, 0], x[0].double(), *ends.tolist())
        tolerances = {"rtol": 30 * torch.finfo(dtype).eps, "atol": 3 * torch.finfo(dtype).eps}
        torch.testing.assert_close(odeint(func, x, ends, integrator)[-1, 0].double(), want, **tolerances)
        torch.testing.assert_close(integrator(func, x, *ends.tolist())[0].double(), want, **tolerances)
        per_row = odeint(func, x, ends[None], integrator)[-1, 0].double()
        torch.testing.assert_close(per_row, want, **tolerances)


def test_jumps_without_a_map_give_fixed_steps_the_left_limit():
    at = torch.tensor([0.35, 0.8], dtype=torch.float64)
    func = DampedODEFunc(TimeDependent(lambda t, x: ((t >= 0.35) & (t < 0.8)) * 5.0 + 0.0 * x), Constant(LAM))
    x = torch.zeros(2, 1, dtype=torch.float64)
    for ends in ([0.0, 1.0], [1.0, 0.0]):
        t = torch.tensor(ends, dtype=torch.float64)
        got = odeint(func, x, t, Krogstad4(1), jumps=Jumps(at if ends[0] == 0 else at.flip(0)))[-1, 0]
        times, values = torch.tensor([-1.0, 0.35, 0.8], dtype=torch.float64), torch.tensor([0.0, 5.0, 0.0]).double()
        torch.testing.assert_close(got, held_solution(times, values, x[0], *ends), rtol=1e-13, atol=1e-13)


def test_fixed_steps_over_a_path_compile_in_one_graph_and_count_their_steps():
    times, values = inputs()
    func, x = growing(times, values), torch.ones(5, 1, dtype=torch.float64)
    t = torch.tensor([0.1, 3.3], dtype=torch.float64)

    def run(x):
        return odeint(func, x, t, Krogstad4(2))

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(x), run(x))
    inside = int(((times >= 0.1) & (times <= 3.3)).sum(1).max())
    s = solve(func, x, t, Krogstad4(2), dense=True)
    assert s.accepted.tolist() == [2 * (inside + 1)] * 5
    torch.testing.assert_close(s.x, run(x))
    torch.testing.assert_close(s.at(3.3), s.x[-1])
    short = solve(func, x, torch.tensor([3.3, 3.31], dtype=torch.float64) + 2, Krogstad4(2))
    assert short.accepted.tolist() == [2] * 5


def test_gradients_of_fixed_steps_with_respect_to_times_pass_a_break():
    times, values = inputs()
    t = torch.tensor([0.13, 2.9], dtype=torch.float64, requires_grad=True)
    x = torch.ones(5, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, t: odeint(growing(times, values), x, t, Krogstad4(1))[-1], (x, t))


@pytest.mark.parametrize("integrator", [AdaptiveExponential(1e-8, 1e-10), Krogstad4(2), TorchDiffEq()], ids=repr)
def test_a_structured_state_has_an_input(integrator):
    """The input drives one part of a real and a complex part, of different ranks."""
    path = paths.Held(torch.tensor([0.0, 1.0]).double(), torch.tensor([[[0.0], [1.0]], [[0.0], [2.0]]]).double())
    func = DampedODEFunc(Driven(lambda t, x, u: {"z": 1j * u, "y": u[:, None] + 0 * x["y"]}, path), Constant(0.0))
    state = {"z": torch.zeros(2, 1, dtype=torch.complex128), "y": torch.zeros(2, 3, 1, dtype=torch.float64)}
    xs = odeint(func, state, torch.tensor([0.0, 3.0]).double(), integrator)
    want = torch.tensor([2.0, 4.0]).double()
    torch.testing.assert_close(xs["z"][-1], 1j * want[:, None], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(xs["y"][-1], want[:, None, None].expand(2, 3, 1), rtol=1e-6, atol=1e-9)
