"""λ(t) and λ(t, x): closed forms, gradients, and a λ that turns negative on the way."""

import pytest
import torch
from torch.autograd import gradcheck

from dampode import DampedBlock, DampedODEFunc, models, odeint, solve
from dampode.damping import Damping
from dampode.integrators import ETD2RK, AdaptiveExponential, KenCarp4, Status, TorchDiffEq
from tests.helpers.dampings import Liquid, Pulsating
from tests.helpers.oracles import Forced

to_tolerance = pytest.mark.parametrize(
    "integrator",
    [
        AdaptiveExponential(rtol=1e-8, atol=1e-10),
        AdaptiveExponential(rtol=1e-8, atol=1e-10, recompute=3),
        KenCarp4(rtol=1e-8, atol=1e-10),
    ],
    ids=["exponential", "recompute", "implicit"],
)


class FallsBelowZero(Damping):
    """λ(t) = 0.5 − t for the first sample, 0.5 for the others."""

    depends_on_state, depends_on_time = False, True

    def forward(self, t, x):
        first = (torch.arange(len(x)) == 0).reshape(-1, 1)
        return torch.where(first, 0.5 - t, 0.5).to(x)


class Polynomial(Damping):
    """λ(t) = 2000 t⁴."""

    depends_on_state, depends_on_time = False, True

    def forward(self, t, x):
        return 2000 * torch.as_tensor(t, dtype=x.dtype) ** 4


@to_tolerance
def test_pulsating_decay_has_its_closed_form(integrator):
    """x' = −(1.5 + sin 3t) x."""
    t = torch.linspace(0.3, 2.0, 5, dtype=torch.float64)
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    decay = 1.5 * t - torch.cos(3 * t) / 3
    exact = torch.exp(decay[0] - decay)[:, None, None] * x
    func = DampedODEFunc(torch.zeros_like, Pulsating())
    torch.testing.assert_close(odeint(func, x, t, integrator), exact, rtol=1e-6, atol=1e-7)
    back = odeint(func, exact[-1], t.flip(0), integrator)
    torch.testing.assert_close(back, exact.flip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [Pulsating, lambda: Liquid(3)], ids=["λ(t)", "λ(t, x)"])
@to_tolerance
def test_gradients_with_times_agree_with_many_fixed_steps(integrator, make):
    func = DampedODEFunc(Forced(3), make())
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    t = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    weight = torch.arange(18, dtype=torch.float64).reshape(3, 2, 3)
    inputs = (x, t, *func.parameters())
    want = torch.autograd.grad((weight * odeint(func, x, t, ETD2RK(400))).sum(), inputs)
    got = torch.autograd.grad((weight * odeint(func, x, t, integrator)).sum(), inputs)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_gradients_with_respect_to_times_are_those_of_the_flow():
    func, x = DampedODEFunc(Forced(2), Pulsating()), torch.ones(1, 2, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda t: odeint(func, x, t, AdaptiveExponential(rtol=1e-10, atol=1e-11)), (t,), atol=1e-5)


@to_tolerance
def test_damping_that_turns_negative_is_named_where_it_does(integrator):
    func = DampedODEFunc(torch.cos, FallsBelowZero())
    s = solve(func, torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64), integrator)
    assert s.status == (Status.NEGATIVE_DAMPING, Status.SUCCESS, Status.SUCCESS)
    assert 0.3 < s.reached[0] < 0.8


def test_damping_sees_the_time_of_its_own_sample():
    """Samples whose steps differ: each agrees with a solve of its own."""
    func = DampedODEFunc(Forced(3, lipschitz=3.0), Pulsating())
    x = torch.tensor([[0.0, 0.0, 0.0], [10.0, -5.0, 3.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 3.0], dtype=torch.float64)
    together = solve(func, x, t)
    alone = [solve(func, part[None], t) for part in x]
    torch.testing.assert_close(together.x, torch.cat([s.x for s in alone], 1))
    assert together.accepted.tolist() == [int(s.accepted) for s in alone]
    assert together.accepted[0] != together.accepted[1]


def test_the_adjoint_looks_at_the_damping_at_all_times():
    func, x = DampedODEFunc(torch.sin, Polynomial()), torch.ones(1, 1, requires_grad=True)
    assert odeint(func, x, torch.tensor([0.0, 0.1, 0.2]), TorchDiffEq("dopri5", adjoint=True)).requires_grad
    with pytest.raises(ValueError, match=r"no digit of torch\.float32 is left"):
        odeint(func, x, torch.tensor([0.0, 0.5, 1.0]), TorchDiffEq("dopri5", adjoint=True))


def test_damping_that_is_large_at_the_start_only_may_be_solved_backwards():
    """λ |t1 − t0| at the start would overflow, but the integral of λ is 400."""
    x = torch.ones(1, 1, dtype=torch.float64)
    s = solve(DampedODEFunc(torch.zeros_like, Polynomial()), x, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert s.status == (Status.SUCCESS,)
    torch.testing.assert_close(s.x[-1].log(), 400 * x, rtol=1e-3, atol=0)


def test_the_resolution_of_times_matters_to_damping():
    func = DampedODEFunc(torch.sin, Pulsating())
    with pytest.warns(UserWarning, match="f and λ get t in the state's dtype"):
        odeint(func, torch.ones(1, 1), torch.tensor([1e6, 1e6 + 1], dtype=torch.float64))


def test_what_needs_a_fixed_damping_refuses():
    network = models.in_resnet(14).eval()
    block = next(part for part in network.modules() if isinstance(part, DampedBlock))
    block.func.damping = Pulsating()
    for reads in (models.coefficients, models.fold):
        with pytest.raises(ValueError, match=r"needs a fixed λ.*depends on the state or on time"):
            reads(network)
