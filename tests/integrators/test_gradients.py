"""Gradients: known ones, finite differences, second derivatives, times, the adjoint, autocast."""

import pytest
import torch
from torch import nn
from torch.autograd import grad, gradcheck

from dampode import DampedBlock, DampedODEFunc, odeint
from dampode.damping import Constant, Gated, Learned
from dampode.fields import VectorField
from dampode.integrators import (
    AdaptiveExponential,
    HochbruckOstermann4,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    TorchDiffEq,
)
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced

# exact gradients, end times ------------------------------------------------------------------------------------


class Wave(VectorField):
    """f(x, t) = a cos(t) - b x: linear, so the solution and all its derivatives are known."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, t, x):
        return self.a * torch.cos(torch.as_tensor(t, dtype=x.dtype)) - self.b * x


def exact(a, b, lam, x0, t0, t1):
    """x' = -k x + a cos t, k = lam + b, rho = 1."""
    k = lam + b

    def forced(t):
        return a * (k * torch.cos(t) + torch.sin(t)) / (k**2 + 1)

    return torch.exp(-k * (t1 - t0)) * (x0 - forced(t0)) + forced(t1)


@pytest.mark.parametrize("lam", [0.5, 50.0])
@pytest.mark.parametrize(
    "integrator",
    [HochbruckOstermann4(30), HochbruckOstermann4(30, recompute=5), AdaptiveExponential(1e-7, 1e-10),
     AdaptiveExponential(1e-7, 1e-10, recompute=7)],
    ids=["fixed", "fixed, recompute", "adaptive", "adaptive, recompute"],
)  # fmt: skip
def test_a_field_with_known_gradients(integrator, lam):
    """With respect to x0, f's parameters, λ and all times, first and second derivatives."""
    double = {"dtype": torch.float64}
    damping = Learned(lam, lam).double()
    func = DampedODEFunc(Wave(torch.tensor(0.7, **double), torch.tensor(0.3, **double)), damping)
    x = torch.tensor([[1.5]], requires_grad=True, **double)
    t = torch.tensor([0.2, 0.5, 1.0], requires_grad=True, **double)
    inputs = (func.f.a, func.f.b, damping.raw, x, t)
    xs = odeint(func, x, t, integrator)
    want = torch.cat([exact(*inputs[:4], t[0], s)[None] for s in t])
    torch.testing.assert_close(xs, want, rtol=1e-5, atol=1e-6)
    weights = torch.tensor([1.0, -2.0, 3.0], **double).view(3, 1, 1)
    firsts = [grad((weights * v.square()).sum(), inputs, create_graph=True) for v in (xs, want)]
    torch.testing.assert_close(*firsts, rtol=1e-5, atol=1e-6)
    seconds = [grad(sum(g.square().sum() for g in first), inputs) for first in firsts]
    torch.testing.assert_close(*seconds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("gated", "backward"), [(False, False), (True, True)])
def test_end_times_against_finite_differences(gated, backward):
    damping = Gated(2).double() if gated else Constant(3.0)
    func, tight = DampedODEFunc(Forced(2), damping, one_plus), AdaptiveExponential(1e-8, 1e-10)
    x = torch.randn(1, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.4], dtype=torch.float64)
    t = (t.flip(0) if backward else t).clone().requires_grad_()
    assert gradcheck(lambda t: odeint(func, x, t, tight), (t,), eps=1e-4, atol=1e-5, rtol=1e-4)


def test_times_with_gradients_leave_the_states_as_they_are():
    func, x = DampedODEFunc(Forced(3), Constant(2.0)), torch.randn(2, 3, dtype=torch.float64)
    t = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)
    assert torch.equal(odeint(func, x, t), odeint(func, x, t.clone().requires_grad_()))


# the continuous adjoint ----------------------------------------------------------------------------------------


def test_the_adjoint_is_refused_where_no_digit_is_left():
    func, x = DampedODEFunc(Forced(3), Learned(40.0, 40.0).double()), torch.randn(2, 3, dtype=torch.float64)
    adjoint, t = TorchDiffEq(adjoint=True), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"λΔt is 40 between two times, and above 36 no digit of torch.float64 is left"
    ):
        odeint(func, x, t, adjoint)
    with torch.no_grad():
        odeint(func, x, t, adjoint)  # no gradient is wanted
    odeint(func, x, torch.linspace(0, 1, 3, dtype=torch.float64), adjoint)  # it starts anew at every time
    with pytest.raises(ValueError, match=r"above 16 no digit of torch\.float32 is left; use adjoint=False"):
        adjoint(DampedODEFunc(Forced(3, dtype=torch.float32), Learned(20.0, 20.0)), x.float(), 0.0, 1.0)


def test_the_adjoint_loses_digits_as_damping_grows():
    errors = []
    for lam in (1.0, 20.0):
        func = DampedODEFunc(Forced(3), Learned(lam, lam).double())
        x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
        got, want = (
            grad(TorchDiffEq("dopri5", 1e-8, 1e-10, adjoint=adjoint)(func, x, 0.0, 1.0).sum(), x)[0]
            for adjoint in (True, False)
        )
        errors.append(((got - want).norm() / want.norm()).item())
    assert errors[0] < 1e-6
    assert errors[1] > 1e-3


# precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [lambda: Constant(1.0), lambda: Gated(16)], ids=["constant", "gated"])
@pytest.mark.parametrize(
    "integrator",
    [LinearizedEuler(1000), Krogstad4(250, recompute=16), AdaptiveExponential(1e-6, 1e-8), KenCarp4(1e-4, 1e-6)],
    ids=["fixed", "recompute", "adaptive", "implicit"],
)
def test_gradients_of_many_steps_keep_their_precision_under_autocast(integrator, damping):
    """Autocast's one half-precision copy of a weight would lose half of the sum of a thousand steps."""
    torch.manual_seed(0)
    block = DampedBlock(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), damping(), integrator=integrator)
    x = torch.randn(64, 16)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = block(x).square().sum()
        found.append(torch.cat([g.flatten() for g in grad(loss, list(block.parameters()))]))
    assert not torch.equal(*found)
    assert (found[0] - found[1]).norm() < 3e-3 * found[0].norm()
