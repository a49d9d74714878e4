"""`damping.Matrix`: linear systems against the matrix exponential, nonlinear ones against tight solves of f − A x."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from dampode import DampedBlock, DampedODEFunc, odeint, odeint_event, solve
from dampode.damping import Constant, Matrix
from dampode.fields import TimeDependent
from dampode.functional import phis
from dampode.integrators import (
    ETD2RK,
    AdaptiveExponential,
    ExponentialAdams,
    ExponentialEuler,
    HochbruckOstermann3,
    HochbruckOstermann4,
    KenCarp4,
    Krogstad4,
    LinearizedEuler,
    TorchDiffEq,
)
from dampode.integrators.exponential.moments import moments
from dampode.integrators.jumps import Jumps
from dampode.weighting import one_plus

EXPONENTIAL = [
    ExponentialEuler(2),
    ETD2RK(2),
    HochbruckOstermann3(2),
    Krogstad4(2),
    HochbruckOstermann4(2),
    AdaptiveExponential(1e-8, 1e-10),
    ExponentialAdams(1e-8, 1e-10),
]
TIMES = torch.tensor([0.0, 0.01, 0.3, 1.0], dtype=torch.float64)
FORCE = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
SPIRAL = torch.tensor([[2.0, 30.0, 0.5], [-30.0, 2.0, 0.0], [0.3, 0.0, 1.0]], dtype=torch.float64)
ORTHOGONAL = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
MATRICES = {
    "complex pairs": torch.tensor(
        [[1.0, 50, 0, 0], [-50, 1, 0, 0], [0, 0, 1e4, -1e5], [0, 0, 1e5, 1e4]], dtype=torch.float64
    ),
    "stiff, non-normal": ORTHOGONAL
    @ (torch.diag(torch.tensor([1e6, 1e3, 1.0, 0.1])).double() + torch.ones(4, 4).double().triu(1))
    @ ORTHOGONAL.T,
    "symmetric": 1e3 * (2 * torch.eye(4).double() - torch.diag(torch.ones(3).double(), 1)
    - torch.diag(torch.ones(3).double(), -1)),
    "singular": torch.tensor([[1.0, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 3, 1], [0, 0, 0, 2]], dtype=torch.float64),
}  # fmt: skip


def start(n=3, d=4, dtype=torch.float64):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


def linear_solution(matrix, force, x, times):
    """x' = −A x + b by the exponential of the matrix of one row more, (T, N, D)."""
    d = len(matrix)
    whole = np.zeros((d + 1, d + 1))
    whole[:d, :d], whole[:d, d] = -matrix.numpy(), force.numpy()
    ends = [x.double().numpy() @ e[:d, :d].T + e[:d, d] for e in (scipy.linalg.expm(whole * t) for t in times.tolist())]
    return torch.from_numpy(np.stack(ends))


def forced(t, x):
    return torch.sin(3 * t) + torch.tanh(x.roll(1, -1))


def spiral(matrix=SPIRAL):
    return DampedODEFunc(TimeDependent(forced), Matrix(matrix))


@pytest.mark.parametrize("integrator", EXPONENTIAL, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("name", MATRICES)
def test_a_linear_system_with_a_constant_force_is_exact(name, integrator):
    matrix, x = MATRICES[name], start()
    solution = solve(DampedODEFunc(lambda x: FORCE.expand_as(x).clone(), Matrix(matrix)), x, TIMES, integrator)
    assert solution.failure() is None
    assert solution.x.dtype == torch.float64
    torch.testing.assert_close(solution.x, linear_solution(matrix, FORCE, x, TIMES), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("integrator", [EXPONENTIAL[3], *EXPONENTIAL[5:]], ids=lambda i: type(i).__name__)
def test_float32_is_exact_to_its_rounding(integrator):
    matrix, x = MATRICES["complex pairs"].float(), start(dtype=torch.float32)
    force = FORCE.float()
    if not isinstance(integrator, Krogstad4):
        integrator = type(integrator)(1e-5, 1e-7)
    got = odeint(DampedODEFunc(lambda x: force.expand_as(x).clone(), Matrix(matrix)), x, TIMES, integrator)
    assert got.dtype == torch.float32
    exact = linear_solution(matrix.double(), FORCE, x, TIMES)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "integrator",
    [Krogstad4(100), AdaptiveExponential(1e-7, 1e-9), ExponentialAdams(1e-7, 1e-9), KenCarp4(1e-6, 1e-8)],
    ids=lambda i: type(i).__name__,
)
def test_a_nonlinear_field_comes_out_as_with_the_matrix_inside_f(integrator):
    x, times = start(d=3), torch.linspace(0, 1, 5, dtype=torch.float64)
    plain = DampedODEFunc(TimeDependent(lambda t, x: forced(t, x) - x @ SPIRAL.T), Constant(0.0))
    exact = odeint(plain, x, times, TorchDiffEq("dopri8", 1e-11, 1e-12))
    torch.testing.assert_close(odeint(spiral(), x, times, integrator), exact, rtol=2e-5, atol=2e-5)


def test_large_imaginary_parts_cost_no_calls():
    fast = SPIRAL.clone()
    fast[0, 0] = fast[1, 1] = 1e5
    fast[0, 1], fast[1, 0] = 1e5, -1e5
    calls = [int(solve(spiral(matrix), start(d=3), TIMES).nfe.max()) for matrix in (SPIRAL, fast)]
    assert calls[1] < 3 * calls[0]


def test_growing_modes_and_backward_solves_are_right():
    matrix, x = torch.tensor([[-1.0, 5.0], [-5.0, 2.0]], dtype=torch.float64), start(d=2)
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    func = DampedODEFunc(lambda x: 0.5 + 0 * x, Matrix(matrix))
    exact = linear_solution(matrix, torch.full((2,), 0.5, dtype=torch.float64), x, times - 1.0)
    for integrator in EXPONENTIAL[5:]:
        torch.testing.assert_close(odeint(func, x, times, integrator), exact, rtol=1e-6, atol=1e-6)


def test_complex_matrices_need_complex_states():
    matrix = torch.tensor([[1 + 2j, 0.5], [0.1j, 3 - 1j]], dtype=torch.complex128)
    x = torch.complex(start(d=2), start(d=2).flip(0))
    func = DampedODEFunc(lambda x: 0 * x, Matrix(matrix))
    exact = torch.stack([x @ torch.linalg.matrix_exp(-matrix * t).mT for t in TIMES])
    for integrator in EXPONENTIAL:
        torch.testing.assert_close(odeint(func, x, TIMES, integrator), exact, rtol=1e-10, atol=1e-10)
    with pytest.raises(TypeError, match="needs a complex state"):
        odeint(func, start(d=2), TIMES)


@pytest.mark.parametrize("integrator", EXPONENTIAL[5:], ids=lambda i: type(i).__name__)
def test_times_per_sample_dense_output_and_jumps(integrator):
    x = start(d=3)
    own = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.2, 0.7], [0.0, 2.0, torch.nan]], dtype=torch.float64)
    got = solve(spiral(), x, own, integrator, dense=True)
    one = odeint(spiral(), x[1:2], own[1], integrator)
    torch.testing.assert_close(got.x[:, 1:2], one, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.at(own)[:2], got.x[:2], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="embedded error"):
        got.error_at(0.1)
    halved = odeint(
        spiral(), x, TIMES, integrator, jumps=Jumps(torch.tensor([0.3], dtype=torch.float64), lambda j, x: x / 2)
    )
    first = odeint(spiral(), x, TIMES[:3], integrator)
    second = odeint(spiral(), first[-1] / 2, TIMES[2:], integrator)
    torch.testing.assert_close(halved[2:], second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("integrator", EXPONENTIAL[5:], ids=lambda i: type(i).__name__)
def test_events_see_the_state(integrator):
    x = torch.tensor([[1.0, 0.0], [2.0, 0.5]], dtype=torch.float64)
    turn = torch.tensor([[0.1, -2.0], [2.0, 0.1]], dtype=torch.float64)
    func = DampedODEFunc(lambda x: 0 * x, Matrix(turn))
    found = odeint_event(func, x, (0.0, 5.0), lambda t, x: x[:, 0] - 0.25, integrator, direction=-1)
    torch.testing.assert_close(found.x[:, 0], torch.full((2,), 0.25, dtype=torch.float64), rtol=0, atol=1e-9)
    exact = torch.stack([torch.linalg.matrix_exp(-turn * t) @ y for t, y in zip(found.t, x, strict=True)])
    torch.testing.assert_close(found.x, exact, rtol=1e-8, atol=1e-8)


def test_a_block_and_integrators_without_exact_damping_take_the_matrix():
    block = DampedBlock(torch.tanh, Matrix(SPIRAL), integrator=Krogstad4(80))
    euler = DampedBlock(torch.tanh, Matrix(SPIRAL), integrator=LinearizedEuler(1))
    x = start(d=3)
    torch.testing.assert_close(euler(x), x + torch.tanh(x) - x @ SPIRAL.T)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(block(x), odeint(block.func, x, times, KenCarp4(1e-5, 1e-7))[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "integrator",
    [Krogstad4(3), AdaptiveExponential(1e-7, 1e-9), ExponentialAdams(1e-7, 1e-9)],
    ids=lambda i: type(i).__name__,
)
@pytest.mark.parametrize("matrix", [SPIRAL, SPIRAL.abs().tril() + torch.diag(5 * torch.arange(3.0)).double()])
def test_the_gradient_of_the_matrix_is_that_of_the_linear_flow(matrix, integrator):
    learned, x = torch.nn.Parameter(matrix.clone()), start(2, 3).requires_grad_()
    weights = start(2, 3).cos()
    func = DampedODEFunc(lambda x: torch.ones_like(x), Matrix(learned))
    loss = (weights * odeint(func, x, TIMES, integrator)[-1]).sum()
    got = torch.autograd.grad(loss, (learned, x))
    inside = torch.cat((torch.cat((-learned, torch.ones(3, 1).double()), 1), torch.zeros(1, 4).double()))
    flow = torch.linalg.matrix_exp(inside)
    exact = (weights * (x @ flow[:3, :3].T + flow[:3, 3])).sum()
    torch.testing.assert_close(loss, exact, rtol=1e-9, atol=1e-9)
    for a, b in zip(got, torch.autograd.grad(exact, (learned, x)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_gradcheck_of_matrix_and_field_in_fixed_steps():
    x = start(2, 3).requires_grad_()

    def last(matrix, x):
        func = DampedODEFunc(TimeDependent(forced), Matrix(torch.nn.Parameter(SPIRAL.clone())))
        return torch.func.functional_call(Solve(func), {"func.damping.value": matrix}, (x,))

    assert torch.autograd.gradcheck(last, (SPIRAL.clone().requires_grad_(), x), atol=1e-6)


class Solve(torch.nn.Module):
    def __init__(self, func):
        super().__init__()
        self.func = func

    def forward(self, x):
        return odeint(self.func, x, TIMES[2:], Krogstad4(2))[-1]


def test_float32_gradients_pass_the_phase_check_of_torch():
    learned = torch.nn.Parameter(SPIRAL.float())
    func = DampedODEFunc(torch.tanh, Matrix(learned))
    odeint(func, start(16, 3, torch.float32), TIMES[:3], ExponentialAdams(1e-4, 1e-6))[-1].mul(1e6).sum().backward()
    learned64 = torch.nn.Parameter(SPIRAL)
    func64 = DampedODEFunc(torch.tanh, Matrix(learned64))
    odeint(func64, start(16, 3), TIMES[:3], ExponentialAdams(1e-6, 1e-8))[-1].mul(1e6).sum().backward()
    torch.testing.assert_close(
        learned.grad.double(), learned64.grad, rtol=1e-3, atol=1e-3 * float(learned64.grad.abs().max())
    )


def test_refusals():
    x, field = start(d=2), torch.tanh
    jordan = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"condition number of at most 1.65e\+05 .* got [0-9.]+e\+1[0-9]"):
        odeint(DampedODEFunc(field, Matrix(jordan)), x, TIMES)
    near = torch.tensor([[1.0, 1.0], [0.0, 1.001]], dtype=torch.float64)
    odeint(DampedODEFunc(field, Matrix(near)), x, TIMES)
    with pytest.raises(ValueError, match=r"at most 203 for a state of torch\.float32"):
        odeint(DampedODEFunc(field, Matrix(near)), x.float(), TIMES)
    with pytest.raises(ValueError, match="ρ = 1"):
        odeint(DampedODEFunc(field, Matrix(near), one_plus), x, TIMES)
    with pytest.raises(ValueError, match=r"eigenvalues .* must be apart"):
        odeint(DampedODEFunc(field, Matrix(torch.nn.Parameter(torch.eye(2).double()))), x, TIMES)
    with pytest.raises(ValueError, match="last axis"):
        odeint(DampedODEFunc(field, Matrix(near)), start(d=3), TIMES)
    with pytest.raises(ValueError, match=r"must be \(D, D\)"):
        Matrix(torch.ones(2, 3))
    with pytest.raises(ValueError, match="finite"):
        Matrix(torch.full((2, 2), torch.nan))
    with pytest.raises(TypeError, match="one number for all"):
        odeint(DampedODEFunc(field, Matrix(near)), x, TIMES, ExponentialAdams(torch.full((2,), 1e-3), 1e-6))
    with pytest.raises(TypeError, match="one tensor"):
        odeint(DampedODEFunc(field, Matrix(near)), (x, x), TIMES)
    with pytest.raises(TypeError, match="by element"):
        ExponentialEuler()(DampedODEFunc(field, Matrix(near)), x, 0.0, 1.0)


@pytest.mark.parametrize(
    "z", [0j, 1e-9 + 1e-9j, -0.5 + 0.8j, 0.999j, 1.001j, -3 + 2.9j, -40 + 3j, -2 + 300j, 2j * np.pi]
)
def test_phi_functions_and_moments_of_complex_arguments(z):
    def exact(k):
        with mpmath.workdps(150):
            if z == 0:
                return complex(1 / mpmath.factorial(k))
            head = sum(mpmath.mpc(z) ** n / mpmath.factorial(n) for n in range(k))
            return complex((mpmath.exp(mpmath.mpc(z)) - head) / mpmath.mpc(z) ** k)

    point = torch.tensor([z], dtype=torch.complex128)
    for k, value in enumerate(phis(point, 4)[1:], 1):
        assert abs(value.item() - exact(k)) < 1e-14 * abs(exact(k)) + 1e-16
    for m, value in enumerate(moments(point, 9)):
        assert abs(value.item() - math.factorial(m) * exact(m + 1)) < 1e-14
