import pytest
import torch

from dampode.sequence import linear_recurrence
from dampode.sequence.recurrence import damped_recurrence


def step_by_step(a, b, h0):
    states = [h0]
    for k in range(b.shape[1]):
        states.append(a[:, k] * states[-1] + b[:, k])
    return torch.stack(states[1:], 1)


def draw(n, steps, size, dtype):
    a, b = torch.rand(n, steps, size, dtype=dtype), torch.randn(n, steps, size, dtype=dtype)
    if dtype.is_complex:
        a = a / a.abs().clamp(min=1)
    return a, b, torch.randn(n, size, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(2, 1, 3), (1, 257, 2), (3, 1000, 4), (70, 50, 64)])
def test_equals_the_steps(shape, dtype):
    a, b, h0 = draw(*shape, dtype)
    torch.testing.assert_close(linear_recurrence(a, b, h0), step_by_step(a, b, h0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [3, 40])
def test_derivatives(steps, dtype):
    inputs = tuple(value.requires_grad_() for value in draw(1, steps, 2, dtype))
    assert torch.autograd.gradcheck(linear_recurrence, inputs)
    if steps < 10:
        assert torch.autograd.gradgradcheck(linear_recurrence, inputs)


def test_gradients_equal_those_of_the_steps():
    inputs = [value.requires_grad_() for value in draw(2, 300, 3, torch.float64)]
    ours, theirs = (torch.autograd.grad((f(*inputs) ** 2).sum(), inputs) for f in (linear_recurrence, step_by_step))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_half_precision_adds_in_float32():
    steps = 4096
    a = torch.ones(1, steps, 1, dtype=torch.bfloat16)
    h = linear_recurrence(a, a, torch.zeros(1, 1, dtype=torch.bfloat16))
    assert h.dtype == torch.bfloat16
    assert h[0, -1].item() == steps  # a sum in bfloat16 would stop at 256


def test_factors_that_underflow_leave_no_nan():
    a = torch.exp(-torch.full((1, 400, 2), 1e4)).requires_grad_()
    h = linear_recurrence(a, torch.ones(1, 400, 2), torch.ones(1, 2))
    h.sum().backward()
    assert (h == 1).all()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(
    ("a", "b", "h0", "error", "words"),
    [
        (torch.ones(1, 2, 3), torch.ones(1, 2, 4), torch.ones(1, 4), ValueError, "must be"),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(3), ValueError, "h0 .N, H."),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3).long(), torch.ones(1, 3), TypeError, "floating"),
        (torch.ones(1, 2, 3) + 0j, torch.ones(1, 2, 3), torch.ones(1, 3), TypeError, "all three complex"),
    ],
)
def test_errors(a, b, h0, error, words):
    with pytest.raises(error, match=words):
        linear_recurrence(a, b, h0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 4, 3)])
def test_damped_recurrence_and_its_derivatives(dtype, held, shape):
    rate, u, h0 = torch.rand(shape, dtype=dtype), torch.randn(2, 4, 3, dtype=dtype), torch.randn(2, 3, dtype=dtype)
    inputs = [v.requires_grad_() for v in (rate, torch.rand(2, 4, 1, dtype=torch.float64), u, h0)]

    def states(rate, gaps, u, h0):
        return damped_recurrence(rate, gaps, u, h0, held)

    a = torch.exp(-inputs[1] * rate).expand_as(u)
    whole, last = states(*inputs)
    torch.testing.assert_close(whole, step_by_step(a, (1 - a) * u if held else u, h0), rtol=1e-12, atol=1e-12)
    assert torch.equal(last, whole[:, -1])
    assert torch.autograd.gradcheck(states, inputs)
    assert torch.autograd.gradgradcheck(states, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_gap_whose_angle_overflows_forgets(dtype):
    rate = torch.full((1, 1, 2), 5.0 + 40j).to(dtype) if dtype.is_complex else torch.full((1, 1, 2), 5.0)
    rate.requires_grad_()
    gaps, u = torch.tensor([[[1.0], [3e38]]]), torch.ones(1, 2, 2, dtype=dtype)
    states, _ = damped_recurrence(rate, gaps, u, torch.ones(1, 2, dtype=dtype), False)
    assert torch.equal(states[:, 1], u[:, 1])
    (grad,) = torch.autograd.grad(states.abs().sum(), rate)
    assert grad.isfinite().all()
