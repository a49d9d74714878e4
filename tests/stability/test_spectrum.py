"""Spectra: against dense linear algebra, Eq. 18's condition with its sign case, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dampode import DampedBlock, DampedODEFunc, stability
from dampode.damping import Constant, Gated
from dampode.fields import PreActBasic
from dampode.integrators import ExponentialEuler, KenCarp4, TorchDiffEq
from dampode.stability import (
    JacobianOperator,
    critical_damping,
    damped_eigenvalues,
    damping_condition,
    eigenvalues,
    jacobian,
    log_norm,
    spectral_abscissa,
    spectral_norm,
    spectral_radius,
    spectrum,
)
from dampode.weighting import one_plus, unit
from tests.helpers.oracles import Forced

both_rho = pytest.mark.parametrize("rho", [unit, one_plus])


def matrix(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(d)


def linear(a, lam=0.0, rho=unit):
    """A damped linear field and the matrix of its right-hand side."""
    weight = float(rho(lam))
    return DampedODEFunc(lambda x: x @ a.T, Constant(lam), rho), weight * a - lam * torch.eye(len(a), dtype=a.dtype)


def rightmost(a, k):
    nu = torch.linalg.eigvals(a)
    return nu[torch.from_numpy(np.lexsort((-nu.imag.numpy(), -nu.real.numpy())))][:k]


def conv_field(size=4):
    torch.manual_seed(1)
    return PreActBasic(8, 8).double().eval(), torch.randn(1, 8, size, size, dtype=torch.float64)


# against dense linear algebra ----------------------------------------------------------------------------------


@both_rho
@pytest.mark.parametrize("lam", [0.0, 0.6, 40.0])
def test_linear_fields_agree_with_dense_linear_algebra(lam, rho):
    func, a = linear(matrix(300), lam, rho)
    x = torch.randn(1, 300, dtype=torch.float64)
    scale = 1 + lam
    torch.testing.assert_close(jacobian(func, x), a, rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(eigenvalues(func, x, k=7), rightmost(a, 7), rtol=0, atol=1e-7)
    nu = torch.linalg.eigvals(a)
    assert spectral_abscissa(func, x) == pytest.approx(nu.real.max().item(), abs=1e-7)
    assert spectral_radius(func, x) == pytest.approx(nu.abs().max().item(), abs=1e-7)
    assert log_norm(func, x) == pytest.approx(torch.linalg.eigvalsh((a + a.T) / 2).max().item(), abs=1e-7)
    assert spectral_norm(func, x) == pytest.approx(torch.linalg.matrix_norm(a, 2).item(), abs=1e-7 * scale)


def test_dense_and_matrix_free_agree_on_a_convolutional_field():
    f, x = conv_field(6)  # D = 288: above what is computed densely
    j = jacobian(f, x)
    torch.testing.assert_close(eigenvalues(f, x, k=3), rightmost(j, 3), rtol=0, atol=1e-7)
    assert log_norm(f, x) == pytest.approx(torch.linalg.eigvalsh((j + j.T) / 2).max().item(), abs=1e-7)
    assert spectral_norm(f, x) == pytest.approx(torch.linalg.matrix_norm(j, 2).item(), abs=1e-7)


@pytest.mark.parametrize("d", [60, 90])  # dense, matrix-free
@pytest.mark.parametrize("which", ["LR", "SR", "LM", "LI"])
def test_each_end_of_the_spectrum(which, d):
    func, a = linear(matrix(d, seed=3))
    nu = torch.linalg.eigvals(a)
    extent = {"LR": nu.real, "SR": -nu.real, "LM": nu.abs(), "LI": nu.imag.abs()}[which]
    expected = nu[extent.argmax()]
    found = eigenvalues(func, torch.zeros(1, d, dtype=torch.float64), k=4, which=which)
    assert found.shape == (4,)
    assert min((found - expected).abs().min(), (found - expected.conj()).abs().min()) < 1e-7
    assert (found.real.diff() <= 1e-12).all()


def test_all_eigenvalues_of_a_small_field():
    func, a = linear(matrix(9))
    torch.testing.assert_close(
        eigenvalues(func, torch.zeros(1, 9, dtype=torch.float64), k=None), rightmost(a, 9), rtol=0, atol=1e-10
    )


def test_all_eigenvalues_but_one():
    for d in (2, 3, 12, 61):
        func, a = linear(matrix(d))
        found = eigenvalues(func, torch.zeros(1, d, dtype=torch.float64), k=d - 1)
        torch.testing.assert_close(found, rightmost(a, d - 1), rtol=0, atol=1e-10)
    func, _ = linear(torch.diag(torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64)))
    x = torch.zeros(1, 3, dtype=torch.float64)
    for which, expected in (("LR", [2, 1]), ("SR", [1, -3]), ("LM", [2, -3])):
        assert eigenvalues(func, x, k=2, which=which).real.tolist() == expected


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
    frozen = DampedODEFunc(func.f, Constant(func.damping(x).detach()))
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


def test_results_are_detached_and_repeatable():
    block, x = DampedBlock(conv_field()[0]).double().eval(), conv_field()[1].requires_grad_()
    first, second = eigenvalues(block, x, k=3), eigenvalues(block, x, k=3)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not jacobian(block, x).requires_grad
    assert all(p.grad is None for p in block.parameters())


def test_a_missed_eigenvalue_is_found_and_said(monkeypatch):
    """A first search that answers with eigenvalues from the middle of the spectrum stands in for a miss."""
    func, a = linear(torch.diag(torch.linspace(-1, 1, 200, dtype=torch.float64)))
    x = torch.zeros(1, 200, dtype=torch.float64)
    real_search, calls = spectrum._search, []

    def blind(operator, k, which, subspace, *rest, **named):
        calls.append(subspace)
        return (
            np.array([0.25 + 0j] * k) if len(calls) == 1 else real_search(operator, k, which, subspace, *rest, **named)
        )

    monkeypatch.setattr(spectrum, "_search", blind)
    with pytest.warns(stability.MissedEigenvalueWarning, match="missed"):
        found = eigenvalues(func, x, k=2)
    torch.testing.assert_close(found, rightmost(a, 2), rtol=0, atol=1e-7)
    assert calls == [60, 120, 120]


# Eq. 18 --------------------------------------------------------------------------------------------------------


@both_rho
@pytest.mark.parametrize("lam", [0.0, 0.6, 40.0])
def test_eq18_is_the_spectrum_of_the_damped_jacobian(lam, rho):
    f, x = Forced(5), torch.randn(1, 5, dtype=torch.float64)
    expected = eigenvalues(DampedODEFunc(f, Constant(lam), rho), x, 0.2, k=None)
    got = damped_eigenvalues(eigenvalues(f, x, 0.2, k=None), lam, rho)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * (1 + lam))


def test_eq18_defaults_to_the_unit_weight_and_takes_a_weight_function_of_tensors():
    nu = torch.tensor([0.5 + 1j, -1.0], dtype=torch.complex128)
    assert torch.equal(damped_eigenvalues(nu, 0.3), nu - 0.3)
    assert damping_condition(nu, 0.3).bound.tolist() == damping_condition(nu, 0.3, unit).bound.tolist()
    assert critical_damping(nu) == pytest.approx(0.5)
    root = lambda lam: torch.sqrt(1 + lam)  # noqa: E731
    assert torch.equal(damped_eigenvalues(nu, 3.0, root), 2 * nu - 3)
    assert critical_damping(nu, root) == pytest.approx((1 + math.sqrt(17)) / 8)  # λ² = (1 + λ) / 4
    with pytest.raises(ValueError, match=r"ρ must give one number for one λ, got shape \(2,\) at λ = 0\.3"):
        damped_eigenvalues(nu, 0.3, lambda lam: torch.ones(2))


def test_eq18_of_eigenvalues_with_a_graph_is_detached():
    nu = torch.tensor([0.5, -1.0], requires_grad=True)
    for got in (damped_eigenvalues(nu, 0.5, one_plus), *damping_condition(nu, 0.5, one_plus)):
        assert not got.requires_grad
    assert damped_eigenvalues(nu, 0.5, one_plus).tolist() == [0.25, -2.0]  # each in its place
    assert critical_damping(nu, one_plus) == pytest.approx(1)


@pytest.mark.gpu
def test_eq18_of_eigenvalues_on_cuda_is_on_the_cpu():
    nu = torch.tensor([0.5, -1.0], device="cuda")
    for got in (damped_eigenvalues(nu, 0.5, unit), *damping_condition(nu, 0.5, unit)):
        assert got.device.type == "cpu"


def test_eq18_sign_case():
    """With ρ = 1 + λ, damping moves an eigenvalue to the left exactly where Re ν < 1: also where Re ν < 0."""
    nu = torch.tensor([-2.0, -0.1, 0.5, 0.999, 1.001, 3.0])
    moved_left = damped_eigenvalues(nu, 0.7, one_plus) < nu
    assert moved_left.tolist() == [True, True, True, True, False, False]
    with pytest.raises(ValueError, match="λ must be at least 0"):
        damped_eigenvalues(nu, -1.0, unit)


@given(st.floats(-5, 5), st.floats(0.01, 10), st.sampled_from([unit, one_plus, lambda lam: 0.3, lambda lam: lam**2]))
def test_the_condition_is_its_printed_form_for_positive_and_turned_round_for_negative_real_parts(real, lam, rho):
    nu = torch.tensor([complex(real, 0.7)], dtype=torch.complex128)
    bound, side, holds = damping_condition(nu, lam, rho)
    shifted = damped_eigenvalues(nu, lam, rho)
    if abs(real) < 1e-6 or abs(shifted.real - nu.real).item() < 1e-9:
        return
    assert holds.item() == (shifted.real < nu.real).item()
    weight = float(rho(lam))
    assert holds.item() == (weight < bound.item() if side.item() > 0 else weight > bound.item())


def test_the_condition_on_the_axis_is_any_damping():
    bound, side, holds = damping_condition(torch.tensor([2j, 0j]), 0.4, one_plus)
    assert bound.isinf().all()
    assert side.tolist() == [0, 0]
    assert holds.all()
    assert not damping_condition(torch.tensor([2j]), 0.0, unit).holds.any()


@given(st.floats(-3, 3))
def test_critical_damping_of_both_weight_functions(a):
    nu = torch.tensor([complex(a, 1), complex(a - 1, 0)], dtype=torch.complex128)
    assert critical_damping(nu, unit) == pytest.approx(max(a, 0.0), abs=1e-9)
    expected = math.inf if a >= 1 else max(a, 0.0) / (1 - a)
    if abs(a - 1) > 1e-3:
        assert critical_damping(nu, one_plus) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("a", [1e13, 1e150, 1e290])
def test_critical_damping_of_a_huge_eigenvalue(a):
    assert critical_damping(torch.tensor([a], dtype=torch.float64), unit) == pytest.approx(a, rel=1e-12)
    assert critical_damping(torch.tensor([a], dtype=torch.float64), one_plus) == math.inf


@both_rho
def test_critical_damping_is_where_the_measured_abscissa_changes_sign(rho):
    a = matrix(8, seed=2) * 0.5
    x = torch.zeros(1, 8, dtype=torch.float64)
    lam = critical_damping(eigenvalues(linear(a)[0], x, k=None), rho)
    assert 0 < lam < math.inf
    assert spectral_abscissa(linear(a, 0.99 * lam, rho)[0], x) > 0 > spectral_abscissa(linear(a, 1.01 * lam, rho)[0], x)


# what the log-norm bounds --------------------------------------------------------------------------------------


def test_a_non_normal_field_grows_before_it_decays():
    """Abscissa −1 and a transient that grows: why both numbers are printed."""
    a = torch.tensor([[-1.0, 10.0], [0.0, -2.0]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    func, _ = linear(a)
    assert spectral_abscissa(func, x) == pytest.approx(-1)
    assert log_norm(func, x) == pytest.approx((-3 + math.sqrt(101)) / 2)
    norms = [torch.linalg.matrix_norm(torch.matrix_exp(t * a), 2).item() for t in (0.01, 0.5, 10.0)]
    assert norms[0] > 1.03
    assert norms[1] > 2
    assert norms[2] < 1e-3
    assert math.log(norms[0]) / 0.01 == pytest.approx(log_norm(func, x), rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 3), st.floats(0.01, 3), st.sampled_from([unit, one_plus]))
def test_linear_trajectories_separate_no_faster_than_the_log_norm(seed, lam, t, rho):
    func, a = linear(matrix(6, seed), lam, rho)
    x = torch.zeros(1, 6, dtype=torch.float64)
    difference = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mu, grown = log_norm(func, x), (torch.matrix_exp(t * a) @ difference).norm()
    assert grown <= math.exp(mu * t) * difference.norm() * (1 + 1e-9)
    lower = -log_norm(lambda y: -func(0.0, y), x)  # and not more slowly than its opposite
    assert grown >= math.exp(lower * t) * difference.norm() * (1 - 1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2), st.floats(0.5, 4))
def test_nonlinear_trajectories_separate_no_faster_than_the_log_norm_of_their_segments(seed, lam, gain):
    """The bound with the maximum over the segments between two states, at each of the times simulated."""
    func = DampedODEFunc(Forced(3, gain, seed=seed), Constant(lam))
    generator = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    start, h, steps, mu = (pair[0] - pair[1]).norm().item(), 0.05, 12, -math.inf
    with torch.no_grad():
        for n in range(steps):
            now = n * h
            for share in torch.linspace(0, 1, 5, dtype=torch.float64):
                mu = max(mu, log_norm(func, (pair[0] + share * (pair[1] - pair[0]))[None], now))
            pair = TorchDiffEq("rk4")(func, pair, now, now + h)
            # the maximum is sampled: over a step and a quarter segment it may rise by what the slack allows
            assert (pair[0] - pair[1]).norm().item() <= math.exp((mu + 0.05 * gain) * (now + h)) * start * (1 + 1e-6)


# bad input -----------------------------------------------------------------------------------------------------

EVERY = [jacobian, eigenvalues, spectral_abscissa, spectral_radius, log_norm, spectral_norm]


@pytest.mark.parametrize("ask", EVERY)
def test_bad_input_is_answered_in_words(ask):
    field, x = Forced(12), torch.randn(1, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="one sample"):
        ask(field, x.repeat(2, 1))
    with pytest.raises(ValueError, match="finite"):
        ask(field, x * math.nan)
    with pytest.raises(ValueError, match="keep the state's shape"):
        ask(lambda x: x[:, :3], x)
    with pytest.raises(ValueError, match="train mode"):
        ask(nn.BatchNorm2d(3).double(), torch.randn(1, 3, 2, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="tensor"):
        ask(field, [1.0])
    with pytest.raises(TypeError, match="callable"):
        ask(3, x)
    with pytest.raises(TypeError, match="t must be a number, got '0'"):
        ask(field, x, "0")
    with pytest.raises(ValueError, match="t must be finite"):
        ask(field, x, math.nan)


def test_a_field_that_is_not_finite():
    x = torch.zeros(1, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="finite at x"):
        eigenvalues(lambda x: x / x, x)


@pytest.mark.parametrize("k", [12, 50])
def test_too_many_eigenvalues(k):
    with pytest.raises(ValueError, match=f"got {k}; k=None gives all 12"):
        eigenvalues(Forced(12), torch.randn(1, 12, dtype=torch.float64), k=k)


def test_settings_out_of_range():
    field, x = Forced(12), torch.randn(1, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="which must be"):
        eigenvalues(field, x, which="SM")
    with pytest.raises(ValueError, match=r"subspace must be at least k \+ 2 = 5, got 4"):
        eigenvalues(field, x, k=3, subspace=4)
    with pytest.raises(TypeError, match="subspace must be a positive int"):
        eigenvalues(field, x, k=3, subspace=8.0)
    for ask in (damped_eigenvalues, damping_condition):
        with pytest.raises(TypeError, match="nu must be of type Tensor"):
            ask(0.5, 0.1, unit)
    with pytest.raises(ValueError, match="not empty"):
        critical_damping(torch.tensor([]), unit)


def test_no_convergence_brings_what_converged():
    func, _ = linear(matrix(400))
    with pytest.raises(stability.ConvergenceError, match="of 6 eigenvalues converged in 1 restart") as caught:
        eigenvalues(func, torch.zeros(1, 400, dtype=torch.float64), k=6, subspace=8, max_restarts=1)
    assert isinstance(caught.value.best, torch.Tensor)


def test_a_guard_that_does_not_converge_brings_what_it_was_to_guard(monkeypatch):
    func, a = linear(matrix(80))
    real_search, calls = spectrum._search, []

    def failing(*args, **named):
        calls.append(named["seed"])
        if len(calls) > 1:
            raise stability.ConvergenceError("no luck")
        return real_search(*args, **named)

    monkeypatch.setattr(spectrum, "_search", failing)
    with pytest.raises(stability.ConvergenceError, match=r"guards against a miss did not: no luck") as caught:
        eigenvalues(func, torch.zeros(1, 80, dtype=torch.float64), k=3)
    torch.testing.assert_close(caught.value.best, rightmost(a, 3), rtol=0, atol=1e-7)


def grcar(n):
    """Far from normal: its eigenvalues are ill conditioned, |ν| <= ‖A‖₂ < 3.3."""
    above = sum(torch.diag(torch.ones(n - k, dtype=torch.float64), k) for k in range(4))
    return above - torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)


def test_ritz_values_of_vanishing_vectors_are_refused():
    """ARPACK calls 46 an eigenvalue, with vectors of norm 1e-15 and so with small residuals."""
    func, _ = linear(grcar(260))
    with pytest.raises(stability.ConvergenceError, match=r"residual must be at most .* far from normal") as caught:
        spectral_abscissa(func, torch.zeros(1, 260, dtype=torch.float64))
    assert (caught.value.best.abs() < 3.3).all()


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


def test_the_condition_of_whole_numbers_keeps_a_fractional_damping():
    assert damping_condition(torch.tensor([1, 2]), 0.5, one_plus).bound.tolist() == [1.5, 1.25]
