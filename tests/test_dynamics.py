import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant, Gated, Learned
from dampode.fields import Autonomous
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced


def test_eq4_and_its_parts():
    f, lam = Forced(3), torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64)
    func, x = DampedODEFunc(f, Constant(lam), one_plus), torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(func(0.3, x), -lam * x + (1 + lam) * f(0.3, x))
    got_lam, weight, fx = func.parts(0.3, x)
    torch.testing.assert_close((got_lam, weight, fx), (lam, 1 + lam, f(0.3, x)))


def test_defaults_are_not_shared():
    a, b = (DampedODEFunc(nn.Identity()) for _ in range(2))
    assert isinstance(a.damping, Learned)
    assert a.damping is not b.damping
    assert 0.2 <= a.damping(0.0, torch.zeros(1)) <= 0.25


def test_what_is_wrapped():
    module = nn.Linear(2, 2)
    assert isinstance(DampedODEFunc(module).f, Autonomous)
    assert DampedODEFunc(module).f.f is module
    field = Forced(2)
    assert DampedODEFunc(field).f is field
    torch.testing.assert_close(DampedODEFunc(torch.sin).f(0.0, torch.ones(1)), torch.ones(1).sin())


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda x: x[:, :1], ValueError, r"shape: x is \(4, 3\), f\(t, x\) is \(4, 1\); in a network, Transition"),
        (lambda x: x.double(), TypeError, "keep the state's dtype: x is torch.float32, .* torch.float64"),
        (lambda x: x.to("meta"), ValueError, "keep the state's device: x is on cpu, .* on meta"),
        (lambda x: 1.0, TypeError, "f must return a tensor, got float"),
    ],
)
def test_a_field_that_changes_the_state_is_refused(f, error, message):
    with pytest.raises(error, match=message):
        DampedODEFunc(f)(0.0, torch.zeros(4, 3))


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 4, 3), (2, 1)])
def test_damping_that_does_not_broadcast_is_refused(shape):
    func = DampedODEFunc(nn.Identity(), Constant(torch.ones(shape)))
    with pytest.raises(ValueError, match="λ must broadcast to the state"):
        func(0.0, torch.zeros(4, 3))


def test_a_weight_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"ρ\(λ\) must broadcast to the state"):
        DampedODEFunc(nn.Identity(), rho=lambda lam: torch.ones(7, 1, 1))(0.0, torch.zeros(4, 3))
    with pytest.raises(TypeError, match=r"ρ\(λ\) must be of type float or int, got NoneType"):
        DampedODEFunc(nn.Identity(), rho=lambda lam: None)(0.0, torch.zeros(4, 3))
    wide = DampedODEFunc(nn.Identity(), rho=lambda lam: torch.ones(3, dtype=torch.float64))
    assert wide(0.0, torch.zeros(4, 3)).dtype == torch.float32


def test_types_are_refused_in_words():
    with pytest.raises(TypeError, match=r"damping must be of type Damping, got float; wrap a number in Constant"):
        DampedODEFunc(nn.Identity(), 0.5)
    with pytest.raises(TypeError, match="f must be callable, got int"):
        DampedODEFunc(3)
    with pytest.raises(TypeError, match="rho must be callable"):
        DampedODEFunc(nn.Identity(), rho=1.0)


def test_autocast_may_change_the_dtype_of_f():
    func = DampedODEFunc(nn.Linear(3, 3), Gated(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert func(0.0, torch.zeros(4, 3)).dtype == torch.float32
        assert func(0.0, torch.zeros(4, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_repr_names_the_weight_function():
    assert "rho=one_plus" in repr(DampedODEFunc(nn.Identity(), rho=one_plus))


def _inferred(block, x):
    with torch.inference_mode():
        return block(x.clone())


@pytest.mark.parametrize(
    "call",
    [
        _inferred,
        lambda block, x: torch.compile(block, backend="aot_eager", fullgraph=True)(x),
        lambda block, x: torch.export.export(block, (x,)).module()(x),
        lambda block, x: torch.vmap(lambda sample: block(sample[None])[0])(x),
    ],
    ids=["inference mode", "compile", "export", "vmap"],
)
def test_a_field_that_changes_the_state_changes_a_copy_where_torch_counts_no_changes(call):
    linear, x = nn.Linear(3, 3), torch.randn(4, 3)
    block = DampedBlock(nn.Sequential(nn.ReLU(inplace=True), linear), Constant(0.5))
    with torch.no_grad():
        expected = 0.5 * x + linear(x.relu())
        torch.testing.assert_close(call(block, x.clone()), expected)


def test_an_f_of_time_and_state_is_told_how_to_be_one():
    for call in (lambda t, y: y, nn.Bilinear(3, 3, 3)):
        with pytest.raises(TypeError, match="missing 1 required positional argument") as raised:
            DampedBlock(call)(torch.ones(2, 3))
        assert "for f(t, x) write dampode.fields.TimeDependent(f)" in str(raised.value)
        assert isinstance(raised.value.__cause__, TypeError)
