import copy
import math

import pytest
import torch
from torch import nn

from dampode import DampedBlock, Transition
from dampode.damping import Gated, Learned
from dampode.integrators import ExponentialEuler, LinearizedEuler, TorchDiffEq
from dampode.weighting import one_plus


def test_the_default_is_a_layer_of_in_resnet():
    f, x = nn.Linear(3, 3), torch.randn(4, 3)
    block = DampedBlock(f)
    assert isinstance(block.integrator, LinearizedEuler)
    lam = block.func.damping(0.0, x)
    assert 0.2 <= lam <= 0.25
    torch.testing.assert_close(block(x), (1 - lam) * x + f(x))


def test_blocks_do_not_share_damping():
    assert DampedBlock(nn.Identity()).func.damping is not DampedBlock(nn.Identity()).func.damping


def test_time_span_is_the_step():
    f, x = nn.Linear(3, 3), torch.randn(4, 3)
    block = DampedBlock(f, t_span=(1.0, 3.0))
    lam = block.func.damping(0.0, x)
    torch.testing.assert_close(block(x), (1 - 2 * lam) * x + 2 * f(x))


def test_copies_conversions_and_state_dict():
    block = DampedBlock(nn.Conv2d(3, 3, 3, padding=1), Gated(3), one_plus, ExponentialEuler(2))
    x = torch.randn(2, 3, 4, 4)
    twin = DampedBlock(nn.Conv2d(3, 3, 3, padding=1), Gated(3), one_plus, ExponentialEuler(2))
    twin.load_state_dict(block.state_dict())
    assert torch.equal(twin(x), block(x))
    assert torch.equal(copy.deepcopy(block)(x), block(x))
    doubled = copy.deepcopy(block).double()(x.double())
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), block(x))
    assert block.to("meta")(x.to("meta")).shape == x.shape


@pytest.mark.parametrize("span", [(1.0, 0.0), (0.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_time_span_must_increase(span):
    with pytest.raises(ValueError, match=r"t_span(\[\d\])? must (increase|be finite), got"):
        DampedBlock(nn.Identity(), t_span=span)


def test_types_are_refused_in_words():
    with pytest.raises(TypeError, match="integrator must be of type Integrator, got str; take one from"):
        DampedBlock(nn.Identity(), integrator="dopri5")
    with pytest.raises(TypeError, match="t_span must be a pair"):
        DampedBlock(nn.Identity(), t_span=1.0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, r"must be floating, got dtype torch\.int64"),
        (torch.zeros(0, 3), ValueError, r"must not be empty, got shape \(0, 3\)"),
        (torch.tensor(1.0), ValueError, r"must be \(N, \*S\) with a batch dimension"),
        ([1.0], TypeError, "must be a tensor"),
    ],
)
def test_states_are_refused_in_words(x, error, message):
    with pytest.raises(error, match=message):
        DampedBlock(nn.Identity())(x)


@pytest.mark.slow
def test_inductor_compiles_one_graph_that_trains():
    f = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    block = DampedBlock(f, Learned(), one_plus, ExponentialEuler(2))
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-5)
    got = torch.autograd.grad(compiled(x).square().sum(), tuple(block.parameters()))
    want = torch.autograd.grad(block(x).square().sum(), tuple(block.parameters()))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_transition_changes_the_shape():
    f, shortcut, x = nn.Linear(3, 5), nn.Linear(3, 5, bias=False), torch.randn(4, 3)
    torch.testing.assert_close(Transition(f, shortcut)(x), f(x) + shortcut(x))


def test_transition_refuses():
    with pytest.raises(ValueError, match=r"got \(4, 5\) from f and \(4, 3\) from shortcut"):
        Transition(nn.Linear(3, 5), nn.Identity())(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="shortcut must be of type Module, got NoneType"):
        Transition(nn.Identity(), None)


def test_a_continuous_block_trains():
    block = DampedBlock(nn.Linear(3, 3), Learned(), integrator=TorchDiffEq("dopri5"))
    block(torch.randn(4, 3)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def test_a_blocks_damping_is_that_of_its_func():
    block = DampedBlock(nn.Linear(3, 3))
    assert block.damping is block.func.damping
    block.damping = Gated(3)
    assert isinstance(block.func.damping, Gated)
    assert set(block.state_dict()) == set(DampedBlock(nn.Linear(3, 3), Gated(3)).state_dict())
    with pytest.raises(TypeError, match=r"wrap a number in Constant\(value\)"):
        block.damping = 0.5
