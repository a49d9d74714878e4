"""The Jacobian: products, the whole matrix, and fields that have none."""

import numpy as np
import pytest
import torch

from dampode import DampedBlock, DampedODEFunc
from dampode.damping import Constant, Gated
from dampode.integrators import ExponentialEuler, KenCarp4, TorchDiffEq
from dampode.stability import (
    JacobianOperator,
    eigenvalues,
    jacobian,
    log_norm,
    spectral_abscissa,
    spectral_norm,
    spectrum,
)
from tests.helpers.fields import conv_field, linear, matrix
from tests.helpers.oracles import Forced


def test_operator_products_are_the_jacobians(dtype):
    f, x = conv_field(3)
    f, x = f.to(dtype), x.to(dtype)
    operator, j = JacobianOperator(f, x), jacobian(f, x).numpy()
    v = np.random.default_rng(0).standard_normal(len(j)).astype(j.dtype)
    tight = 1e-5 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(operator.matvec(v), j @ v, rtol=tight, atol=tight)
    np.testing.assert_allclose(operator.rmatvec(v), j.T @ v, rtol=tight, atol=tight)
    assert operator.dtype == j.dtype


def test_a_gated_damping_is_part_of_the_jacobian():
    func = DampedODEFunc(Forced(4), Gated(4).double())
    x = torch.randn(1, 4, dtype=torch.float64)
    h, eye = 1e-6, torch.eye(4, dtype=torch.float64)
    columns = [(func(0.3, x + h * e) - func(0.3, x - h * e))[0] / (2 * h) for e in eye]
    torch.testing.assert_close(jacobian(func, x, 0.3), torch.stack(columns, dim=1).detach(), rtol=0, atol=1e-8)
    frozen = DampedODEFunc(func.f, Constant(func.damping(0.0, x).detach()))
    assert (jacobian(func, x, 0.3) - jacobian(frozen, x, 0.3)).abs().max() > 1e-3


def test_a_constant_field_has_a_zero_jacobian():
    x = torch.randn(1, 300, dtype=torch.float64)
    c = torch.ones_like(x)
    assert eigenvalues(lambda x: c.expand_as(x), x, k=2).tolist() == [0, 0]
    assert spectral_norm(lambda x: c.expand_as(x), x) == 0
    torch.testing.assert_close(
        eigenvalues(DampedODEFunc(lambda x: c.expand_as(x), Constant(2.0)), x, k=2).real,
        torch.full((2,), -2.0, dtype=torch.float64),
    )


class Once(torch.autograd.Function):
    """tanh with a backward pass that is a constant to autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        return (grad * (1 - ctx.saved_tensors[0].tanh().square())).detach()


def test_a_backward_pass_without_a_derivative_is_refused_where_it_matters():
    a, x = matrix(300), torch.randn(1, 300, dtype=torch.float64)
    once, twice = (lambda x: Once.apply(x @ a.T)), (lambda x: (x @ a.T).tanh())
    block = DampedBlock(Forced(300), integrator=TorchDiffEq("rk4", adjoint=True)).double().eval()
    for func in (once, block):
        for ask in (spectral_norm, log_norm):
            with pytest.raises(ValueError, match=r"backward pass must be differentiable .* adjoint=False"):
                ask(func, x)
    assert spectral_abscissa(once, x) == pytest.approx(spectral_abscissa(twice, x), abs=1e-9)  # needs Jᵀu alone
    torch.testing.assert_close(jacobian(once, x), jacobian(twice, x))


@pytest.mark.parametrize("integrator", [TorchDiffEq("dopri5"), KenCarp4(), ExponentialEuler(4, recompute=2)], ids=repr)
def test_the_whole_jacobian_of_any_block(integrator):
    block, x = DampedBlock(Forced(4), Constant(0.5), integrator=integrator).double().eval(), torch.randn(1, 4).double()
    with torch.no_grad():
        h = 1e-5
        columns = [(block(x + h * e) - block(x - h * e))[0] / (2 * h) for e in torch.eye(4, dtype=torch.float64)]
    torch.testing.assert_close(jacobian(block, x), torch.stack(columns, dim=1), rtol=0, atol=1e-3)


def test_inference_mode_does_not_hide_the_jacobian():
    func, a = linear(matrix(8))
    x = torch.zeros(1, 8, dtype=torch.float64)
    with torch.inference_mode():
        nu = eigenvalues(func, x, k=2)
    torch.testing.assert_close(nu.real.max(), torch.linalg.eigvals(a).real.max())


def test_a_jacobian_that_is_not_finite_is_refused_in_words():
    """LAPACK crashes the process on some of them; the slope of sqrt at 0 is infinite."""
    for f in (torch.sqrt, lambda x: x * torch.nan):
        for d in (6, spectrum.DENSE + 1):
            with pytest.raises(ValueError, match="must be finite at x, got NaN or infinite entries of"):
                spectral_abscissa(f, torch.zeros(1, d))
