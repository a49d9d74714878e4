"""Tolerances for each part of a state: equal to one number where they are equal, and each part at its own price."""

import pytest
import torch

from dampode import DampedBlock, DampedODEFunc, odeint, odeint_event, solve
from dampode.damping import Constant
from dampode.integrators import AdaptiveExponential, ExponentialAdams, ExponentialEuler, KenCarp4, TorchDiffEq

CLASSES = pytest.mark.parametrize(
    "make",
    [
        AdaptiveExponential,
        lambda *tol: AdaptiveExponential(*tol, recompute=2),
        ExponentialAdams,
        KenCarp4,
        lambda *tol: TorchDiffEq("dopri5", *tol),
    ],
    ids=["exponential", "recompute", "adams", "implicit", "torchdiffeq"],
)
T = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)


def circles():
    """A slow oscillation (N, 2) beside a fast complex one (N,), z' = 20 i z."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    func = DampedODEFunc(lambda x: {"slow": x["slow"] @ turn, "fast": 20j * x["fast"]}, Constant(0.1))
    state = {"slow": torch.tensor([[1.0, 0.0], [0.5, 2.0]]).double(), "fast": torch.ones(2, dtype=torch.complex128)}
    return func, state


@CLASSES
def test_equal_tolerances_of_all_parts_equal_one_number(make):
    func, state = circles()
    one = odeint(func, state, T, make(1e-5, 1e-7))
    each = odeint(
        func,
        state,
        T,
        make({"fast": 1e-5, "slow": 1e-5}, {"slow": 1e-7, "fast": torch.tensor(1e-7, dtype=torch.float64)}),
    )
    for name in state:
        torch.testing.assert_close(each[name], one[name], rtol=1e-12, atol=1e-12)


@CLASSES
def test_a_loose_part_costs_less_and_a_tight_part_stays_accurate(make):
    func, state = circles()
    tight = solve(func, state, T, make(1e-6, 1e-8))
    loose = solve(func, state, T, make({"slow": 1e-6, "fast": 10.0}, {"slow": 1e-8, "fast": 10.0}))
    assert (2 * loose.nfe < tight.nfe).all()
    angle = T[-1]
    turned = torch.stack((torch.stack((angle.cos(), angle.sin())), torch.stack((-angle.sin(), angle.cos()))))
    exact = torch.exp(-0.1 * angle) * state["slow"] @ turned
    torch.testing.assert_close(loose.x["slow"][-1], exact, rtol=1e-4, atol=1e-5)


@CLASSES
def test_a_tensor_beside_a_plain_state_equals_its_parts(make):
    """An image state, so that an implicit solve has to lay the tolerance out as it lays the state out."""
    func = DampedODEFunc(lambda x: torch.sin(3 * x), Constant(torch.full((2, 1, 1), 0.5).double()))
    parts = DampedODEFunc(lambda x: (torch.sin(3 * x[0]), torch.sin(3 * x[1])), Constant(0.5))
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    beside = torch.tensor([1e-3, 1e-6], dtype=torch.float64).reshape(2, 1, 1)
    together = odeint(func, x, T, make(beside, 1e-2 * beside))
    apart = odeint(parts, tuple(x.split(1, 1)), T, make((1e-3, 1e-6), [1e-5, 1e-8]))
    torch.testing.assert_close(together, torch.cat(apart, 2), rtol=1e-10, atol=1e-10)


def test_scipy_takes_them_too():
    func, state = circles()
    integrator = TorchDiffEq("scipy_solver", {"slow": 1e-6, "fast": 1e-3}, {"slow": 1e-8, "fast": 1e-5})
    with torch.no_grad():
        got = odeint(func, state, T, integrator)
    torch.testing.assert_close(got["slow"], odeint(func, state, T)["slow"], rtol=1e-3, atol=1e-3)


def test_the_adjoint_takes_the_smallest():
    func, state = circles()
    state["slow"].requires_grad_()
    settings = {"slow": 1e-6, "fast": 1e-4}, {"slow": 1e-8, "fast": 1e-6}
    losses = [
        odeint(func, state, T, TorchDiffEq("dopri5", *settings, adjoint=flag))["slow"][-1].sum()
        for flag in (True, False)
    ]
    a, b = (torch.autograd.grad(loss, state["slow"])[0] for loss in losses)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_blocks_and_events_take_them():
    func, state = circles()
    integrator = AdaptiveExponential({"slow": 1e-6, "fast": 1.0}, {"slow": 1e-8, "fast": 1.0})
    s = odeint_event(func, state, (0.0, 3.0), lambda t, x: x["slow"][:, 0] - 0.1, integrator, direction=-1)
    plain = odeint_event(func, state, (0.0, 3.0), lambda t, x: x["slow"][:, 0] - 0.1, direction=-1)
    torch.testing.assert_close(s.t, plain.t, rtol=1e-3, atol=1e-3)
    block = DampedBlock(func.f, func.damping, integrator=integrator)
    torch.testing.assert_close(block(state)["slow"], odeint(func, state, T[:2])["slow"][-1], rtol=1e-3, atol=1e-3)
    fixed = DampedBlock(func.f, func.damping, integrator=ExponentialEuler(2))
    assert fixed(state)["fast"].shape == (2,)


def test_an_integrator_with_a_dict_has_a_hash():
    one, other = (AdaptiveExponential({"a": 1e-3}, {"a": 1e-5}) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != AdaptiveExponential({"a": 1e-2}, {"a": 1e-5})


@CLASSES
def test_refusals(make):
    func, state = circles()
    with pytest.raises(
        ValueError,
        match=r"rtol must be one number, or have a value for every part of the state, "
        r"\[\"\['fast'\]\", \"\['slow'\]\"\], got \{'slow': 0.1\}",
    ):
        odeint(func, state, T, make({"slow": 0.1}, 1e-3))
    with pytest.raises(ValueError, match="atol must be one number, or have a value for every part"):
        odeint(func, state, T, make(0.1, (1e-3, 1e-3)))
    with pytest.raises(ValueError, match="rtol must be one number, or have a value for every part"):
        odeint(func, state, T, make(torch.ones(3), 0.1))
    with pytest.raises(
        ValueError, match=r"atol of part \['slow'\] must broadcast to the state: x is \(2, 2\), .* is \(3,\)"
    ):
        odeint(func, state, T, make(0.1, {"slow": torch.ones(3), "fast": 1.0}))
    with pytest.raises(
        TypeError,
        match=r"rtol must be of type float or int or Tensor, got tuple; the state is one tensor of shape \(2, 2\), so",
    ):
        odeint(DampedODEFunc(torch.sin), state["slow"], T, make((1e-3, 1e-3), 1e-3))
    with pytest.raises(ValueError, match=r"atol must broadcast to the state: x is \(2, 2\), atol is \(3,\)"):
        odeint(DampedODEFunc(torch.sin), state["slow"], T, make(1e-3, torch.ones(3)))


@CLASSES
@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ({"a": -1.0}, ValueError, r"rtol\['a'\] must be above 0, got -1.0"),
        ((1e-3, [0.1, True]), TypeError, r"rtol\[1\]\[1\] must be a number, got True"),
        ([], ValueError, r"rtol must have a value for every part of the state, got \[\]"),
        (torch.tensor([1.0, 0.0]), ValueError, r"rtol must be finite and above 0, got \[1.0, 0.0\]"),
        (torch.ones(2, requires_grad=True), TypeError, "got one that wants a gradient; use .double"),
        (torch.ones(2, dtype=torch.int), TypeError, "rtol must be a floating tensor without gradient, got dtype"),
        ("tight", TypeError, "rtol must be a number, got 'tight'"),
    ],
)
def test_bad_tolerances(make, value, kind, words):
    with pytest.raises(kind, match=words):
        make(value, 1e-3)
