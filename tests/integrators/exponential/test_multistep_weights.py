"""The weights of the multistep method: moments against high precision, interpolation that is exact for polynomials."""

import mpmath
import numpy as np
import pytest
import torch

from dampode.integrators.exponential.multistep_weights import MAX_ORDER, ROWS, Nodes, moments, node_weights

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
    np.testing.assert_allclose([m[0] for m in moments(np.array([z]), COUNT, np)], exact, rtol=1e-14)
    single = moments(torch.tensor([z], dtype=torch.float32), COUNT, torch)
    np.testing.assert_allclose([m.item() for m in single], exact, rtol=2e-6)


def test_moments_have_exact_derivatives():
    z = torch.tensor([0.0, -1e-6, -3.99, -4.01, -50.0], dtype=torch.float64, requires_grad=True)
    found = moments(z, COUNT, torch)
    for m in range(COUNT - 1):  # M_m' = M_m − M_{m+1}
        (slope,) = torch.autograd.grad(found[m].sum(), z, retain_graph=True)
        torch.testing.assert_close(slope, found[m] - found[m + 1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_differences_extrapolate_polynomials_exactly(order):
    """A polynomial of degree j − 1 through j values is exact at the end of the step, wherever they lie in the ring."""
    rng = np.random.default_rng(order)
    slots, size = MAX_ORDER + 2, 3
    newest = rng.integers(0, slots, size)
    steps = rng.uniform(0.2, 2.0, (slots, size))
    times = np.zeros((slots, size))
    for age in range(slots):
        times[(newest - age) % slots, np.arange(size)] = 10.0 - steps[:age].sum(0)
    count = np.full(size, slots - 1)
    nodes = Nodes(times, newest, count, np.full(size, order), np.full(size, 10.0), 10.0 + rng.uniform(0.2, 1.0, size))
    weights = node_weights(nodes)
    for row, offset in enumerate(ROWS):
        j = order + offset
        assert (weights.known[row] == (1 <= j <= slots - 1)).all()
        if weights.known[row].all():
            values = ((times - 9.0) / 3) ** (j - 1)
            got = (weights.extrapolation[:, row].T * values).sum(0)
            np.testing.assert_allclose(got, ((nodes.end - 9.0) / 3) ** (j - 1), rtol=1e-6)
            assert (weights.newton[:j] >= 0).all()
