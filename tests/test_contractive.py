"""Fields with known Lipschitz constants: bounds of spectral norms are bounds, and slopes lie where they are said to."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dampode import DampedBlock, EquilibriumBlock
from dampode.contractive import (
    BoundedLinear,
    ConvolutionalPotential,
    DensePotential,
    gram_bound,
    spectral_bound,
)
from dampode.damping import Constant
from dampode.integrators import ExponentialEuler, SteadyState
from dampode.stability import lipschitz, log_norm, step_lipschitz

KINDS = {
    "dense": lambda **k: DensePotential(6, 9, **k).double(),
    "convolution": lambda **k: ConvolutionalPotential(2, (5, 4), 3, **k).double(),
}
STATES = {"dense": (6,), "convolution": (2, 5, 4)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def jacobian(f, x):
    return torch.autograd.functional.jacobian(lambda v: f(v[None])[0], x).reshape(x.numel(), -1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31), st.sampled_from([1e-20, 1.0, 1e20]))
def test_bounds_are_at_least_the_norm(m, n, seed, size):
    w = size * torch.randn(3, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    exact = torch.linalg.matrix_norm(w, 2)
    for k in range(8):
        bound = gram_bound(w, k)
        assert (bound >= exact * (1 - 1e-13)).all()
        assert (bound <= exact * min(m, n) ** (0.5 / 2**k) * (1 + 1e-10)).all()
    assert exact.max() <= spectral_bound(w) <= exact.max() * (1 + 1e-9)


def test_bounds_of_hard_matrices():
    """Rank one, multiples of orthogonal matrices, and 0."""
    u = torch.randn(5, 1, dtype=torch.float64)
    assert gram_bound(u @ u.T).item() == pytest.approx(u.square().sum().item(), rel=1e-12)
    q = 3 * torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert 3 <= gram_bound(q).item() <= 3 * 8 ** (1 / 64) + 1e-12
    assert gram_bound(torch.zeros(2, 2)).item() < 1e-30


def test_a_convolution_is_bounded_whatever_its_padding():
    """The matrix of the convolution with zeros around the image, formed column by column."""
    for kernel, size in ((1, (3, 4)), (3, (5, 4)), (5, (4, 7))):
        f = ConvolutionalPotential(2, size, 3, kernel).double()
        shape = (2, *size)
        matrix = jacobian(lambda v, w=f.weight, p=kernel // 2: F.conv2d(v, w, padding=p), torch.zeros(shape).double())
        exact = torch.linalg.matrix_norm(torch.from_numpy(matrix.detach().numpy()).reshape(-1, math.prod(shape)), 2)
        bound = spectral_bound(f.matrices())
        assert exact <= bound <= 1.5 * exact


@every_kind
@pytest.mark.parametrize("activation", [torch.relu, torch.tanh, torch.sigmoid, F.softplus])
def test_the_field_is_the_negative_gradient_of_a_convex_function(kind, activation):
    f = KINDS[kind](norm=1.3, activation=activation)
    for p in f.parameters():
        torch.nn.init.normal_(p)
    j = jacobian(f, torch.randn(STATES[kind], dtype=torch.float64))
    torch.testing.assert_close(j, j.T)
    values = torch.linalg.eigvalsh(j)
    assert values.max() <= 1e-12
    assert values.min() >= -(f.spectral_norm_bound() ** 2) >= -(1.3**2) * (1 + 1e-9)


@every_kind
@pytest.mark.parametrize(("lam", "norm"), [(0.0, math.sqrt(2)), (0.3, 1.0), (1.0, 2.0), (5.0, 4.0)])
def test_a_step_has_the_constant_that_is_derived(kind, lam, norm):
    """max(e^{-λh}, c ‖W‖² − e^{-λh}): no slope found is larger, and a linear σ in a search comes near."""
    f = KINDS[kind](norm=norm)
    torch.nn.init.normal_(f.bias)
    block = DampedBlock(f, Constant(lam), integrator=ExponentialEuler(3), t_span=(0.0, 1.5))
    h, bound = 0.5, lipschitz(block)
    gain = (1 - math.exp(-lam * h)) / lam if lam else h
    step = max(math.exp(-lam * h), gain * f.spectral_norm_bound() ** 2 - math.exp(-lam * h))
    assert bound == pytest.approx(step**3, rel=1e-9)
    x = torch.randn(30, *STATES[kind], dtype=torch.float64)
    for size in (1e-3, 1.0, 30.0):
        y = x + size * torch.randn_like(x)
        slopes = (block(x) - block(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
        assert slopes.max() <= bound
    norms = [torch.linalg.matrix_norm(jacobian(block, v), 2).item() for v in x[:5]]
    assert max(norms) <= bound


def test_the_constant_of_a_step_is_reached():
    """Where σ is linear the map is a I − c WᵀW, whose norm is the constant if W has a singular value 0 and ‖W‖."""
    w = torch.diag(torch.tensor([0.0, 2.0], dtype=torch.float64))
    for kept, gain in ((0.9, 0.1), (0.5, 0.7)):
        exact = torch.linalg.matrix_norm(kept * torch.eye(2).double() - gain * w.T @ w, 2).item()
        assert step_lipschitz(kept, gain, 2.0) == pytest.approx(exact)


@every_kind
def test_the_flow_contracts_at_the_rate_lam(kind):
    """A flow over T has the constant e^{-λT}: two long integrations approach one another at least that fast."""
    f, lam = KINDS[kind](norm=1.5), 0.7
    torch.nn.init.normal_(f.bias)
    block = DampedBlock(f, Constant(lam), integrator=ExponentialEuler(400), t_span=(0.0, 2.0))
    x, y = torch.randn(2, 8, *STATES[kind], dtype=torch.float64)
    ratio = (block(x) - block(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert ratio.max() <= math.exp(-2 * lam)
    assert log_norm(block.func, x[:1]) <= -lam + 1e-9


@every_kind
@pytest.mark.parametrize("lam", [0.05, 1.0])
def test_an_equilibrium_exists_for_every_lam_above_zero_and_has_the_constant_rho_over_lam(kind, lam):
    f = KINDS[kind](norm=3.0)
    torch.nn.init.normal_(f.bias)
    block = EquilibriumBlock(f, Constant(lam), integrator=SteadyState(rtol=1e-9, atol=1e-10, max_calls=500))
    u, v = torch.randn(2, 6, *STATES[kind], dtype=torch.float64)
    slopes = (block(u) - block(v)).flatten(1).norm(dim=1) / (u - v).flatten(1).norm(dim=1)
    assert slopes.max() <= lipschitz(block)
    assert lipschitz(block) == pytest.approx(1 / lam)


def test_bounded_linear():
    layer = BoundedLinear(7, 3)
    torch.nn.init.normal_(layer.weight, std=10)
    assert torch.linalg.matrix_norm(layer.matrix(), 2) <= 1 + 1e-6
    assert lipschitz(layer) <= 1 + 1e-3
    torch.testing.assert_close(layer(torch.eye(7)).T - layer.bias[:, None], layer.matrix())


@every_kind
def test_gradients_reach_the_weights(kind):
    f = KINDS[kind]()
    x = torch.randn(2, *STATES[kind], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, *p: f(v), (x, *f.parameters()), atol=1e-5)


def test_bad_input():
    with pytest.raises(ValueError, match="must lie in \\[0, 1\\], got gelu; take relu, tanh, sigmoid"):
        DensePotential(3, activation=F.gelu)
    with pytest.raises(ValueError, match="kernel must be odd"):
        ConvolutionalPotential(3, (4, 4), kernel=2)
    with pytest.raises(ValueError, match=r"must have the size \(4, 4\) of the bound, got \(5, 4\)"):
        ConvolutionalPotential(1, (4, 4))(torch.zeros(1, 1, 5, 4))
    with pytest.raises(ValueError, match="norm must be above 0"):
        DensePotential(3, norm=0.0)
