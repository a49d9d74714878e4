import math

import pytest
import torch

from dampode.damping import Constant, Gated, Learned


def test_constant_float_follows_the_state(dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    lam = Constant(0.1)(0.0, x)
    assert lam.dtype == dtype
    assert lam == torch.tensor(0.1, dtype=dtype)
    assert list(Constant(0.1).state_dict()) == []


def test_constant_tensor_is_a_buffer():
    damping = Constant(torch.tensor([1.0, 2.0]).view(2, 1, 1)).double()
    assert damping.state_dict()["value"].dtype == torch.float64
    assert damping(0.0, torch.zeros(1, 2, 3, 3)).shape == (2, 1, 1)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, torch.tensor([1.0, -1e-9]), torch.tensor([math.nan])])
def test_constant_refuses_values_out_of_range(bad):
    with pytest.raises(ValueError, match=r"λ must be (finite|at least 0), got"):
        Constant(bad)


@pytest.mark.parametrize("bad", ["1", True, None, torch.tensor([1])])
def test_constant_refuses_types(bad):
    with pytest.raises(TypeError, match="λ must be a"):
        Constant(bad)


@pytest.mark.parametrize("anchor", [0.0, 1.0])
def test_learned_starts_in_its_range(anchor):
    lam = Learned(0.2, 0.25, anchor=anchor, shape=(1000, 1, 1))(0.0, torch.zeros(1, 1000, 2, 2))
    assert lam.min() >= 0.2 - 1e-6
    assert lam.max() <= 0.25 + 1e-6
    assert lam.std() > 0.01


def test_learned_sigmoid_range_is_before_act():
    lam = Learned(-1.0, -1.0, act=torch.sigmoid)(0.0, torch.zeros(1))
    torch.testing.assert_close(lam, torch.sigmoid(torch.tensor(-1.0)))


def test_weight_decay_pulls_to_the_anchor():
    damping = Learned(0.2, 0.25, anchor=1.0)
    optimizer = torch.optim.SGD(damping.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        damping.raw.grad = torch.zeros_like(damping.raw)
        optimizer.step()
    assert damping(0.0, torch.zeros(1)).item() == pytest.approx(1.0, abs=1e-6)


def test_learned_is_cast_to_the_state():
    damping = Learned()
    assert damping(0.0, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert damping.raw.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.3, "high": 0.2}, "low must not exceed high"),
        ({"low": math.nan}, "low must be finite"),
        ({"anchor": math.inf}, "anchor must be finite"),
        ({"low": 1.0, "high": 1.2, "act": torch.tanh}, "λ must be at least 0"),
        ({"low": -0.5, "high": -0.2}, "λ must start above 0"),
        ({"low": -0.1, "high": 0.3}, r"which is 0 in 2[45]\.\d% of the range; raise low"),
    ],
)
def test_learned_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Learned(**settings)


def test_gated_is_a_1x1_convolution():
    damping, x = Gated(3), torch.randn(2, 3, 4, 5)
    weight, bias = damping.gate.weight[:, :, None, None], damping.gate.bias
    expected = torch.sigmoid(torch.nn.functional.conv2d(x, weight, bias))
    torch.testing.assert_close(damping(0.0, x), expected)
    assert damping(0.0, torch.randn(7, 3)).shape == (7, 3)


def test_half_precision_that_cannot_hold_a_constant_is_refused():
    with pytest.raises(ValueError, match=r"λ must fit the state's dtype, got 1e\+08 for torch.float16"):
        Constant(1e8)(0.0, torch.zeros(1, dtype=torch.float16))


def test_damping_is_made_on_the_meta_device():
    with torch.device("meta"):
        assert Learned(shape=(3,)).raw.is_meta
        assert Constant(torch.ones(3)).value.is_meta


@pytest.mark.parametrize("pooled", [False, True])
def test_gated_mixes_the_axis_named(pooled):
    """Of square tokens no shape tells which axis is which."""
    gate, x = Gated(3, pooled=pooled, dim=-1), torch.randn(2, 3, 3)
    read = x.mean(1, keepdim=True) if pooled else x
    torch.testing.assert_close(gate(0.0, x), gate.gate(read).sigmoid())
    first = Gated(3, pooled=pooled)
    first.load_state_dict(gate.state_dict())
    torch.testing.assert_close(first(0.0, x.mT).mT, gate(0.0, x))
    assert "dim" in repr(gate)
    assert "dim" not in repr(first)


def test_gated_refuses():
    with pytest.raises(ValueError, match="λ must be at least 0"):
        Gated(3, act=torch.tanh)
    with pytest.raises(TypeError, match="act must be callable, got 'relu'"):
        Gated(3, act="relu")
    with pytest.raises(ValueError, match=r"Gated\(3\) needs a state of 3 channels on axis 1, got shape \(2, 4\)"):
        Gated(3)(0.0, torch.zeros(2, 4))
    for dim, shape in ((2, (2, 3)), (-2, (3, 2)), (-1, (3,))):
        with pytest.raises(ValueError, match=f"3 channels on axis {dim}"):
            Gated(3, dim=dim)(0.0, torch.zeros(shape))
    with pytest.raises(ValueError, match="got 0, the batch"):
        Gated(3, dim=0)
    with pytest.raises(ValueError, match="channels must be a positive int"):
        Gated(0)
