"""The weights of the multistep method: moments against high precision, interpolation that is exact for polynomials."""

import mpmath
import numpy as np
import pytest
import torch

from dampode.integrators.exponential.moments import MAX_ORDER, moments
from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, fill_basis, fill_weights, positions

COUNT = MAX_ORDER + 1


def moment_mp(m, z):
    with mpmath.workdps(50):
        z = mpmath.mpf(z)
        value = mpmath.expm1(z) / z if z else mpmath.mpf(1)
        if abs(z) < 20:
            return mpmath.nsum(lambda n: z**n * mpmath.factorial(m) / mpmath.factorial(n + m + 1), [0, 120])
        for i in range(1, m + 1):
            value = (i * value - 1) / z
        return value


@pytest.mark.parametrize("z", [0.0, -1e-9, -0.5, -3.99, -4.01, -10.0, -1e3, -1e6, 2.0, 3.9])
def test_moments(z):
    exact = [float(moment_mp(m, z)) for m in range(COUNT)]
    double = moments(torch.tensor([z], dtype=torch.float64), COUNT)
    np.testing.assert_allclose([m.item() for m in double], exact, rtol=1e-14)
    single = moments(torch.tensor([z], dtype=torch.float32), COUNT)
    np.testing.assert_allclose([m.item() for m in single], exact, rtol=2e-6)


def test_moments_have_exact_derivatives():
    z = torch.tensor([0.0, -1e-6, -3.99, -4.01, -50.0], dtype=torch.float64, requires_grad=True)
    found = moments(z, COUNT)
    for m in range(COUNT - 1):  # M_m' = M_m − M_{m+1}
        (slope,) = torch.autograd.grad(found[m].sum(), z, retain_graph=True)
        torch.testing.assert_close(slope, found[m] - found[m + 1], rtol=1e-11, atol=1e-14)


def ring(order, size=3):
    """Nodes at random distances, somewhere in the ring."""
    rng = np.random.default_rng(order)
    slots = MAX_ORDER + 2
    newest = rng.integers(0, slots, size)
    steps = rng.uniform(0.2, 2.0, (size, slots))
    times = np.zeros((size, slots))
    for age in range(slots):
        times[np.arange(size), (newest - age) % slots] = 10.0 - steps[:, :age].sum(1)
    count = np.full(size, slots - 1)
    return Nodes(times, newest, count, np.full(size, order), np.full(size, 10.0), 10.0 + rng.uniform(0.2, 1.0, size))


def basis_of(nodes):
    size, slots = nodes.times.shape
    basis, extrapolation = np.empty((size, slots + 1, slots - 1)), np.empty((size, len(ROWS), slots))
    fill_basis(nodes, positions(nodes), 1.0, np.arange(size), basis, extrapolation)
    return basis, extrapolation


def weights_of(nodes, lam, theta):
    """The weights of the values with the extrapolation, and e^z, hφ_1 and w."""
    size, slots = nodes.times.shape
    past, own = np.empty((size, 1 + len(ROWS), slots)), np.empty((3, size))
    fill_weights(nodes, positions(nodes), 1.0, np.full(size, lam), np.arange(size), np.full(size, theta), past, own)
    return past, own


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_differences_extrapolate_polynomials_exactly(order):
    """A polynomial of degree j − 1 through j values is exact at the end of the step, wherever they lie in the ring."""
    nodes = ring(order)
    _, extrapolation = basis_of(nodes)
    for row, offset in enumerate(ROWS):
        j = order + offset
        if 1 <= j <= nodes.values[0]:
            values = ((nodes.times - 9.0) / 3) ** (j - 1)
            got = (extrapolation[:, row] * values).sum(1)
            np.testing.assert_allclose(got, ((nodes.end - 9.0) / 3) ** (j - 1), rtol=1e-6)
        else:
            assert (extrapolation[:, row] == 0).all()


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
@pytest.mark.parametrize("lam", [0.0, 3.0, 1e4])
def test_weights_integrate_polynomials_exactly(order, lam):
    """x' = −λx + p(t) with a polynomial p of degree k − 1 is exact after a step, and inside it."""
    nodes = ring(order)
    size = len(nodes.times)
    h, powers = nodes.end - nodes.begin, np.arange(order)
    for theta in (1.0, 0.4):
        weights, own = weights_of(nodes, lam, theta)
        past = ((nodes.times - nodes.begin[:, None]) / h[:, None]) ** powers[-1]
        parts = weights[:, 0] * past
        z = lam * h * theta
        exact = [h[n] * theta**order * float(moment_mp(order - 1, -z[n])) for n in range(size)]
        assert (abs(parts.sum(1) - exact) <= 1e-12 * abs(parts).sum(1)).all()
        np.testing.assert_allclose(own[0], np.exp(-z), rtol=1e-14)


@pytest.mark.parametrize("order", [1, 3, 8])
def test_weights_are_their_basis_times_the_moments(order):
    nodes = ring(order)
    basis, extrapolation = basis_of(nodes)
    weights, own = weights_of(nodes, 2.0, 1.0)
    z = torch.from_numpy(-2.0 * (nodes.end - nodes.begin))
    found = torch.stack(moments(z, basis.shape[2]), 1).numpy()
    mixed = (basis * found[:, None]).sum(2)
    np.testing.assert_allclose(mixed[:, :-1], weights[:, 0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mixed[:, -1], own[2], rtol=1e-12)
    np.testing.assert_array_equal(extrapolation, weights[:, 1:])
