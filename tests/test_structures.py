"""States of several tensors: equal to one concatenated state, complex equal to real pairs, and misfits in words."""

import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint, odeint_event, solve
from dampode.damping import Constant, Gated, Learned, PerPart
from dampode.fields import TimeDependent
from dampode.integrators import ETD2RK, AdaptiveExponential, Jumps, KenCarp4, TorchDiffEq

INTEGRATORS = pytest.mark.parametrize(
    "integrator",
    [
        ETD2RK(150),
        AdaptiveExponential(1e-6, 1e-8),
        AdaptiveExponential(1e-6, 1e-8, recompute=2),
        KenCarp4(1e-6, 1e-8),
        TorchDiffEq("dopri5"),
    ],
    ids=["fixed", "exponential", "recompute", "implicit", "torchdiffeq"],
)
T = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)


def pair(n=3):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, *shape, generator=generator, dtype=torch.float64) for shape in ((2, 2), (3,)))


def joined(x):
    return torch.cat([part.reshape(*part.shape[:-2], -1) if part.ndim > 2 else part for part in x], -1)


class Mixing(nn.Module):
    """A field of a pair (N, 2, 2), (N, 3), and the same field of (N, 7)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(7, 7).double()

    def forward(self, t, x):
        a, b = x
        out = torch.tanh(self.net(torch.cat((a.flatten(1), b), 1))) * torch.cos(t.reshape(-1, 1))
        return out[:, :4].reshape(-1, 2, 2), out[:, 4:]


class MixingFlat(nn.Module):
    def __init__(self, mixing):
        super().__init__()
        self.net = mixing.net

    def forward(self, t, x):
        return torch.tanh(self.net(x)) * torch.cos(t)


@INTEGRATORS
def test_a_tuple_equals_the_concatenated_state(integrator):
    x, field = pair(), Mixing()
    rate = torch.tensor([[0.5, 2.0], [1.0, 0.0]], dtype=torch.float64)
    func = DampedODEFunc(TimeDependent(field), PerPart((Constant(rate), Constant(0.3))))
    lam = torch.cat((rate.flatten(), torch.full((3,), 0.3, dtype=torch.float64)))
    flat = DampedODEFunc(TimeDependent(MixingFlat(field)), Constant(lam))
    x0 = torch.cat((x[0].flatten(1), x[1]), 1)
    got, want = odeint(func, x, T, integrator), odeint(flat, x0, T, integrator)
    assert isinstance(got, tuple)
    assert [tuple(part.shape) for part in got] == [(3, 3, 2, 2), (3, 3, 3)]
    together = torch.cat((got[0].flatten(2), got[1]), 2)
    torch.testing.assert_close(together, want, rtol=1e-12, atol=1e-12)
    if integrator != TorchDiffEq("dopri5"):
        s = solve(func, x, T, integrator)
        assert torch.equal(s.x[1], got[1].detach()) or torch.equal(s.x[1], got[1])
        assert torch.equal(s.nfe, solve(flat, x0, T, integrator).nfe)
    (a,), (b,) = (torch.autograd.grad(xs[-1].square().sum(), [field.net.weight]) for xs in (together, want))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@INTEGRATORS
def test_a_complex_state_equals_real_pairs(integrator):
    """z' = −λ z + i ω z."""
    z0 = torch.randn(2, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    omega = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    lam = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    z = odeint(DampedODEFunc(lambda z: 1j * omega * z, Constant(lam)), z0, T, integrator)
    exact = torch.exp((1j * omega - lam) * T[:, None, None]) * z0
    assert z.dtype == torch.complex128
    torch.testing.assert_close(z, exact, rtol=1e-3, atol=1e-3)
    pairs = odeint(
        DampedODEFunc(
            lambda x: torch.view_as_real(1j * omega * torch.view_as_complex(x)).contiguous(), Constant(lam[:, None])
        ),
        torch.view_as_real(z0),
        T,
        integrator,
    )
    torch.testing.assert_close(torch.view_as_real(z), pairs, rtol=1e-11, atol=1e-11)
    grad = torch.autograd.grad(z[-1].abs().square().sum(), z0)[0]
    torch.testing.assert_close(grad, torch.autograd.grad(exact[-1].abs().square().sum(), z0)[0], rtol=1e-2, atol=1e-2)


def test_structures_are_kept():
    a, b = pair()
    c = torch.randn(3, 2, dtype=torch.complex128)
    state = {"b": b, "a": [a, (c,)]}
    func = DampedODEFunc(lambda x: {"a": [0 * x["a"][0], (0 * x["a"][1][0],)], "b": x["b"]}, Constant(0.5))
    out = odeint(func, state, T, ETD2RK(100))
    assert list(out) == ["b", "a"]
    assert out["a"][0].shape == (3, 3, 2, 2)
    torch.testing.assert_close(out["a"][1][0][-1], c * torch.exp(torch.tensor(-0.5).double()))
    torch.testing.assert_close(out["b"][-1], b * torch.exp(torch.tensor(0.5).double()), rtol=1e-4, atol=1e-4)


def test_a_block_takes_a_structure():
    x = tuple(part.float() for part in pair())
    block = DampedBlock(lambda x: (-x[0], 0 * x[1]), PerPart((Constant(0.0), Learned())))
    a, b = block(x)
    torch.testing.assert_close(a, 0 * x[0])
    torch.testing.assert_close(b, (1 - block.damping.dampings[1](0.0, b)) * x[1])
    assert len(list(block.parameters())) == 1


def test_lambda_may_be_gated_in_one_part():
    a, b = pair()
    gate = Gated(3).double()
    func = DampedODEFunc(lambda x: (0 * x[0], 0 * x[1]), PerPart((Constant(1.0), gate)))
    xs = odeint(func, (a, b), T, AdaptiveExponential(1e-8, 1e-10))
    alone = odeint(DampedODEFunc(lambda x: 0 * x, gate), b, T, AdaptiveExponential(1e-8, 1e-10))
    torch.testing.assert_close(xs[1], alone, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(xs[0][-1], a * torch.exp(torch.tensor(-1.0).double()))


def test_jumps_get_the_structure():
    a, b = pair()
    func = DampedODEFunc(lambda x: (0 * x[0], 0 * x[1]), Constant(0.0))
    jumps = Jumps(torch.tensor([0.5], dtype=torch.float64), lambda j, x: (x[0] + 1, 2 * x[1]))
    xs = odeint(func, (a, b), T, jumps=jumps)
    torch.testing.assert_close(xs[0][-1], a + 1)
    torch.testing.assert_close(xs[1][-1], 2 * b)


def test_dense_output_has_the_structure():
    a, b = pair()
    func = DampedODEFunc(lambda x: (x[1][:, :2, None] + 0 * x[0], 0 * x[1]), Constant(0.0))
    s = solve(func, (a, b), T, dense=True)
    at = s.at(0.7)
    torch.testing.assert_close(at[0], a + 0.7 * b[:, :2, None].expand(-1, -1, 2))
    assert at[1].shape == (3, 3)
    assert s.at(T)[0].shape == (3, 3, 2, 2)


def test_events_get_the_structure():
    """A ball as height and speed bounces once."""
    height, speed = torch.tensor([[1.0], [2.0]]).double(), torch.zeros(2, 1).double()
    func = DampedODEFunc(lambda x: {"y": x["v"], "v": -2 + 0 * x["v"]}, Constant(0.0))
    s = odeint_event(
        func,
        {"y": height, "v": speed},
        (0.0, 9.0),
        lambda t, x: x["y"][:, 0],
        AdaptiveExponential(1e-8, 1e-10),
        direction=-1,
        count=2,
        map=lambda k, t, x: {"y": 0 * x["y"], "v": -x["v"]},
    )
    torch.testing.assert_close(s.times[0], height[:, 0].sqrt())
    torch.testing.assert_close(s.times[1], 3 * height[:, 0].sqrt())
    torch.testing.assert_close(s.x["v"], -2 * height.sqrt())
    assert s.states["y"].shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("x", "f", "words"),
    [
        (
            "pair",
            lambda x: list(x),
            r"f\(t, x\) must have the structure of the state, \(\(3, 2, 2\), \(3, 3\),\), got \[",
        ),
        ("pair", lambda x: x[0], r"f\(t, x\) must have the structure of the state"),
        ("pair", lambda x: (x[0], x[1], x[1]), r"f\(t, x\) must have the structure of the state"),
        ("pair", lambda x: (x[0], x[1][:, :2]), r"part \[1\] is \(N, \*S\) with S = \(3,\), got \(3, 2\) for N = 3"),
        ("ragged", lambda x: x, r"must have the same samples, got 3 in part \[0\] and 2 in part \[1\]"),
        ((), lambda x: x, "a state must hold a tensor"),
    ],
)
def test_structures_that_differ_are_refused(x, f, words):
    a, b = pair()
    x = {"pair": (a, b), "ragged": (a, b[:2])}.get(x, x)
    with pytest.raises(ValueError, match=words):
        odeint(DampedODEFunc(f), x, T)


def test_parts_that_do_not_fit_are_refused():
    a, b = pair()
    keep = lambda x: x  # noqa: E731
    with pytest.raises(
        ValueError, match=r"λ of part \[1\] must broadcast to the state: x is \(3, 3\), λ of part \[1\] is \(2,\)"
    ):
        odeint(DampedODEFunc(keep, PerPart((Constant(0.0), Constant(torch.ones(2))))), (a, b), T)
    with pytest.raises(
        ValueError,
        match=r"PerPart must have a damping for every part of the state, \['\[0\]', '\[1\]'\], got \['\[0\]'\]",
    ):
        odeint(DampedODEFunc(keep, PerPart((Constant(0.0),))), (a, b), T)
    with pytest.raises(TypeError, match="PerPart is for a state that is a tuple, list or dict"):
        odeint(DampedODEFunc(keep, PerPart((Constant(0.0),))), a, T)
    with pytest.raises(TypeError, match="a part of PerPart must be of type Damping, got float"):
        PerPart((0.5,))
    with pytest.raises(
        TypeError, match=r"one precision and one device, got torch.float64 on cpu in part \[0\] and torch.float32"
    ):
        odeint(DampedODEFunc(keep), (a, b.float()), T)
    with pytest.raises(
        TypeError, match=r"the state must be a tensor, or a tuple, list or dict of tensors, got float at \[1\]"
    ):
        odeint(DampedODEFunc(keep), (a, 1.0), T)
    with pytest.raises(TypeError, match=r"must be real in part \[0\] as the state is, got torch.complex128"):
        odeint(DampedODEFunc(lambda x: (1j * x[0], x[1])), (a, b), T)
    with pytest.raises(ValueError, match="λ of a complex part must not depend on the state, got Gated"):
        odeint(DampedODEFunc(keep, Gated(2)), torch.zeros(3, 2, dtype=torch.complex128), T)
    with pytest.raises(TypeError, match="func must be of type DampedODEFunc"):
        odeint(keep, (a, b), T)
