"""Jumps: a solve with a jump equals two solves, and gradients reach map, state and times."""

import math

import pytest
import torch

from dampode import DampedODEFunc, Jumps, odeint, solve
from dampode.damping import Constant, Gated, Learned
from dampode.fields import VectorField
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    KenCarp4,
    Krogstad4,
    Status,
    TorchDiffEq,
)
from tests.helpers.oracles import Forced

NAN = float("nan")
FIXED = [ExponentialEuler(3), Krogstad4(3, recompute=2)]
ADAPTIVE = [
    AdaptiveExponential(1e-7, 1e-9),
    AdaptiveExponential(1e-7, 1e-9, recompute=3),
    KenCarp4(1e-6, 1e-8),
    ExponentialAdams(1e-7, 1e-9),
    ExponentialAdams(1e-7, 1e-9, recompute=3),
]
by_repr = {"ids": lambda i: f"{type(i).__name__}-{i.recompute if hasattr(i, 'recompute') else ''}"}


def tolerance(integrator):
    """How near the states of equal steps are: a sample takes the same steps alone and in a batch."""
    return {"rtol": 1e-12, "atol": 1e-12} if integrator in FIXED else {"rtol": 1e-10, "atol": 1e-10}


def restart_tolerance(integrator, terms=1):
    """How near a solve with a jump is to two solves, in a sum of so many terms.

    After a jump, KenCarp4 still has its Jacobian and ExponentialAdams its measured Lipschitz number. Both change which
    steps are taken, so the states agree to about the tolerance of a solve.
    """
    if isinstance(integrator, KenCarp4 | ExponentialAdams):
        return {"rtol": 10 * terms * integrator.rtol, "atol": 10 * terms * integrator.rtol}
    return tolerance(integrator)


def problem(damping=None):
    torch.manual_seed(0)
    func = DampedODEFunc(Forced(3), damping or Learned(0.5, 0.9)).double()
    return func, torch.randn(4, 3, dtype=torch.float64)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["forward", "backward"])
@pytest.mark.parametrize("damping", [None, Gated(3)], ids=["learned", "gated"])
@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_a_jump_equals_two_solves(integrator, damping, sign):
    func, x = problem(damping)
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    t, at = sign * tensor(0.0, 0.3, 0.7, 1.5), sign * tensor(0.7)

    def jump(x):
        return -scale * x + 1

    xs = odeint(func, x.requires_grad_(), t, integrator, jumps=Jumps(at, lambda j, x: jump(x)))
    before = odeint(func, x, t[:3], integrator)
    after = odeint(func, jump(before[-1]), t[2:], integrator)
    expected = torch.cat((before[:-1], after))
    growth = 10 if sign < 0 else 1  # backwards, damping amplifies errors
    torch.testing.assert_close(xs, expected, **restart_tolerance(integrator, growth))
    torch.testing.assert_close(xs[2], jump(before[-1]), **restart_tolerance(integrator, growth))
    inputs = [x, scale, *func.parameters()]
    one, two = (torch.autograd.grad(states.square().sum(), inputs) for states in (xs, expected))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, **restart_tolerance(integrator, growth * len(t)))


@pytest.mark.parametrize("integrator", FIXED + ADAPTIVE, **by_repr)
def test_each_sample_jumps_at_its_own_times(integrator):
    func, x = problem()
    t = tensor(0.0, 0.5, 1.0, 2.0)
    at = tensor([0.2, 0.5, 0.9], [0.5, NAN, NAN], [NAN, NAN, NAN], [0.0, 1.7, 2.0])
    dose = torch.rand(4, 3, dtype=torch.float64)
    sample = torch.arange(4)
    xs = odeint(func, x, t, integrator, jumps=Jumps(at, lambda j, x: x + dose[sample, j, None]))
    for n in range(4):
        row = at[n][~torch.isnan(at[n])]
        own = dose[n : n + 1]
        jumps = Jumps(row, lambda j, x, own=own: x + own[0, j, None]) if len(row) else None
        alone = odeint(func, x[n : n + 1], t, integrator, jumps=jumps)
        torch.testing.assert_close(xs[:, n : n + 1], alone, **tolerance(integrator))
    torch.testing.assert_close(xs[0, 3], x[3] + dose[3, 0])


@pytest.mark.parametrize("integrator", [*ADAPTIVE, Krogstad4(60)], **by_repr)
def test_doses_against_the_closed_form(integrator):
    """x' = −λx with doses: x(t) = Σ dose e^{−λ(t − t_dose)}; gradients reach the times of doses."""
    lam, t = 1.3, tensor([0.0, 0.5, 2.0], [0.0, 1.0, 3.0])
    at, dose = tensor([0.0, 0.4], [0.8, 1.0]).requires_grad_(), tensor([2.0, 1.0], [3.0, 0.5]).requires_grad_()
    func = DampedODEFunc(torch.zeros_like, Constant(lam))
    jumps = Jumps(at, lambda j, x: x + dose.gather(1, j[:, None]))
    xs = odeint(func, tensor([0.5], [0.0]), t, integrator, jumps=jumps)
    since = t[:, :, None] - at[:, None]
    exact = (since >= 0) * dose[:, None] * torch.exp(-lam * since.clamp(min=0))
    exact = exact.sum(2).T[..., None] + tensor([0.5], [0.0]) * torch.exp(-lam * t).T[..., None]
    torch.testing.assert_close(xs, exact, rtol=1e-5, atol=1e-6)
    # the derivative with respect to the time of a jump at an output time is that from after it
    weight = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]], [[1.0], [1.0]]], dtype=torch.float64)
    got, wanted = (torch.autograd.grad((weight * v).sum(), [at, dose]) for v in (xs, exact))
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[0][:, 1], wanted[0][:, 1], rtol=1e-5, atol=1e-6)


class Switch(VectorField):
    """sin(20 t) before each sample's time of switching, 50 after it."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, t, x):
        return torch.where(t < self.at[:, None], torch.sin(20 * t), 50.0) + 0.0 * x

    def breaks(self):
        return self.at[:, None]


def test_breaks_of_a_field_are_stopped_at():
    at = tensor(0.5, 0.7123)
    func, x = DampedODEFunc(Switch(at), Constant(0.0)), torch.zeros(2, 1, dtype=torch.float64)
    integrator = AdaptiveExponential(1e-8, 1e-8)
    s = solve(func, x, tensor(0.0, 1.0), integrator)
    exact = (1 - torch.cos(20 * at)) / 20 + 50 * (1 - at)
    torch.testing.assert_close(s.x[-1, :, 0], exact, rtol=1e-7, atol=0)
    func.f.breaks = lambda: None
    without = solve(func, x, tensor(0.0, 1.0), integrator)
    assert without.rejected.sum() > 2 * s.rejected.sum()
    func.f.breaks = lambda: tensor(-1.0, 0.5, 0.7123, 1.0, 4.0)
    torch.testing.assert_close(odeint(func, x, tensor(0.0, 1.0), integrator)[-1], s.x[-1], rtol=1e-7, atol=0)


def test_a_short_pulse_is_never_missed():
    class Pulse(VectorField):
        def forward(self, t, x):
            return ((t >= 50) & (t < 50.01)) * 100.0 + 0.0 * x

    func, x = DampedODEFunc(Pulse(), Constant(0.0)), torch.zeros(1, 1, dtype=torch.float64)
    t = tensor(0.0, 100.0)
    assert odeint(func, x, t)[-1].item() == 0.0
    assert odeint(func, x, t, jumps=Jumps(tensor(50.0, 50.01)))[-1].item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("integrator", ADAPTIVE, **by_repr)
def test_a_jump_costs_no_more_than_a_new_solve(integrator):
    func, x = problem()
    t = tensor(0.0, 2.0)
    plain = solve(func, x, t, integrator)
    s = solve(func, x, t, integrator, jumps=Jumps(tensor(1.0)))
    assert s.status == (Status.SUCCESS,) * 4
    assert (s.nfe <= 2 * plain.nfe + 8).all()
    # the steps of the two solves differ, so their states agree to about the tolerance
    torch.testing.assert_close(s.x, plain.x, rtol=10 * integrator.rtol, atol=10 * integrator.rtol)


def test_images_jump_too():
    func = DampedODEFunc(torch.sin, Constant(1.0))
    x, t = torch.rand(2, 3, 4, 4), torch.tensor([0.0, 1.0, 2.0])
    for integrator in (AdaptiveExponential(), KenCarp4(), Krogstad4(10)):
        xs = odeint(func, x, t, integrator, jumps=Jumps(torch.tensor([1.0]), lambda j, x: 0 * x + 1))
        assert torch.equal(xs[1], torch.ones_like(x))


def test_fixed_steps_with_jumps_compile_in_one_graph():
    func, x = problem()
    at = tensor([0.2, 0.5, 0.9], [0.5, NAN, NAN], [NAN, NAN, NAN], [0.0, 1.7, 2.0])

    def run(x, at):
        return odeint(func, x, tensor(0.0, 2.0), Krogstad4(2), jumps=Jumps(at, lambda j, x: x + 1))

    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend="eager")(x, at), run(x, at))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([0.5, 3.0], "must lie inside the solve, got 3 for jump 1 of sample 0, which is solved from 0 to 2"),
        ([-1.0], "must lie inside the solve, got -1 for jump 0"),
        ([0.5, 0.5], "strictly in the direction of the solve, got 0.5 before 0.5; sort them"),
        ([1.0, 0.5], "strictly in the direction of the solve, got 1 before 0.5"),
        ([0.1, NAN, 0.5], "NaN only at the end of a row, as padding, got NaN in row 0, column 1 before 0.5"),
        ([math.inf], "must be finite, got inf"),
        ([[0.1], [0.2]], "a row per sample, got 2 rows for 4 samples"),
    ],
)
def test_bad_jumps(at, words):
    func, x = problem()
    with pytest.raises(ValueError, match=words):
        odeint(func, x, tensor(0.0, 2.0), jumps=Jumps(torch.tensor(at, dtype=torch.float64)))


def test_bad_jumps_in_words():
    func, x = problem()
    t = tensor(0.0, 1.0)
    with pytest.raises(ValueError, match="TorchDiffEq cannot stop at jumps; take ExponentialAdams"):
        odeint(func, x, t, TorchDiffEq(), jumps=Jumps(tensor(0.5)))
    with pytest.raises(ValueError, match=r"map\(j, x\) of Jumps must keep the state's shape and dtype"):
        odeint(func, x, t, jumps=Jumps(tensor(0.5), lambda j, x: x[:, :1]))
    with pytest.raises(TypeError, match="the state after a jump must be of type Tensor, got NoneType"):
        odeint(func, x, t, jumps=Jumps(tensor(0.5), lambda j, x: None))
    with pytest.raises(TypeError, match="jumps must be of type Jumps, got Tensor; write Jumps"):
        odeint(func, x, t, jumps=tensor(0.5))
    with pytest.raises(TypeError, match="the times of jumps must be floating"):
        Jumps(torch.tensor([1]))
    with pytest.raises(TypeError, match="map must be callable"):
        Jumps(tensor(0.5), 3)
