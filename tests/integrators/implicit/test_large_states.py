"""States too large for a Jacobian: their stages are solved by secants, and by GMRES where secants fail."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.sparse import diags
from torch.autograd import grad

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import KenCarp4, Status, TorchDiffEq
from dampode.integrators.implicit.krylov import KrylovSpace, norms
from dampode.integrators.implicit.newton_krylov import KrylovSpaces
from tests.helpers.stiff_problems import brusselator


class Heat(VectorField):
    """u' = δ Δu + u (1 − u) (u − a) on a square with insulated edges, δ and a trained. States are (N, n, n)."""

    def __init__(self, delta):
        super().__init__()
        self.delta = torch.nn.Parameter(torch.tensor(delta, dtype=torch.float64))
        self.a = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, t, x):
        padded = torch.nn.functional.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        around = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
        return self.delta * (around - 4 * x) + 20 * x * (1 - x) * (x - self.a)


class Values(VectorField):
    """A field that returns values only: no derivative of it is known."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, t, x):
        with torch.no_grad():
            return torch.from_numpy(self.f(t, x).numpy().copy())


def two_samples(n=33):
    line = torch.linspace(0, 1, n, dtype=torch.float64)
    first = torch.exp(-20 * ((line[:, None] - 0.3) ** 2 + (line - 0.5) ** 2))
    return torch.stack((first, 0.5 + 0.5 * torch.sin(40 * line[:, None] * line)))


@pytest.fixture
def spaces(monkeypatch):
    """The samples of a solve that used GMRES."""
    used, original = [], KrylovSpaces.record

    def record(self, *args):
        again = original(self, *args)
        used.append(self.used.clone())
        return again

    monkeypatch.setattr(KrylovSpaces, "record", record)
    return used


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:f itself is stiff")  # for dopri5
def test_two_samples_of_heat_and_reaction_with_gradients(spaces):
    field, x, found = Heat(400.0), two_samples(), []
    func, t = DampedODEFunc(field, Constant(0.0)), torch.tensor([0.0, 0.2], dtype=torch.float64)
    for integrator in (KenCarp4(1e-5, 1e-7), TorchDiffEq("dopri5", 1e-7, 1e-9)):
        start = x.clone().requires_grad_()
        xs = odeint(func, start, t, integrator)
        weights = torch.linspace(0, 1, 33, dtype=torch.float64)
        found.append((xs[-1], grad((xs[-1] * weights).mean(), (start, field.delta, field.a))))
    assert spaces[-1].any()
    torch.testing.assert_close(found[0][0], found[1][0], rtol=3e-4, atol=3e-6)
    for ours, want in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, want, rtol=1e-3, atol=1e-3 * want.abs().max().item())


def test_batch_mates_and_fields_without_derivatives(spaces):
    field, x = Heat(4000.0), two_samples()
    t = torch.tensor([0.0, 0.2], dtype=torch.float64)
    with torch.no_grad():
        together = solve(DampedODEFunc(Values(field), Constant(0.0)), x, t, KenCarp4())
        for n in range(2):
            alone = solve(DampedODEFunc(field, Constant(0.0)), x[n : n + 1], t, KenCarp4())
            torch.testing.assert_close(together.x[:, n : n + 1], alone.x, rtol=1e-3, atol=1e-5)
            assert together.status[n] is Status.SUCCESS
    assert spaces[-1].any()


@pytest.mark.slow
def test_a_brusselator_of_1200_numbers(spaces):
    cells, rtol = 600, 1e-4
    grid = torch.arange(1, cells + 1, dtype=torch.float64) / (cells + 1)
    x = torch.cat((1 + torch.sin(2 * torch.pi * grid), torch.full((cells,), 3.0, dtype=torch.float64)))[None]
    pattern = diags([np.ones(2 * cells)] * 5, [-cells, -1, 0, 1, cells], shape=(2 * cells, 2 * cells))

    def rate(t, y):
        return brusselator(t, torch.from_numpy(y)[None])[0].numpy()

    want = solve_ivp(rate, (0, 1), x[0].numpy(), "BDF", rtol=1e-7, atol=1e-9, jac_sparsity=pattern).y[:, -1]
    func = DampedODEFunc(lambda x: brusselator(0.0, x), Constant(0.0))
    with torch.no_grad():
        s = solve(func, x, torch.tensor([0.0, 1.0]).double(), KenCarp4(rtol, 1e-2 * rtol))
    assert s.status == (Status.SUCCESS,)
    assert spaces[-1].all()
    error = (s.x[-1, 0] - torch.from_numpy(want)).abs() / (1e-2 * rtol + rtol * torch.from_numpy(want).abs())
    assert error.max() < 30
    assert s.nfe.item() < 6_000


def test_a_krylov_space_serves_another_matrix():
    """Directions found for one g solve with another one, without a product; what was forgotten does not."""
    generator = torch.Generator().manual_seed(0)
    tall, wide = torch.randn(2, 2, 6, 2, generator=generator, dtype=torch.float64)
    b = tall @ wide.mT  # of rank 2
    r, one = torch.randn(2, 6, generator=generator, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    products = []

    def rows(g):
        def multiply(p, samples):
            products.append(samples)
            product = (b @ p[:, :, None])[:, :, 0]
            return torch.cat((p - g * product, p, product), 1)

        return multiply

    space = KrylovSpace(r, 10, 3)
    space.solve(rows(0.1), r, torch.full((2,), 1e-10, dtype=torch.float64), 20)
    assert len(products) == 3
    space.change_matrix(3 * one, torch.full((2, 1), 0.2, dtype=torch.float64))
    x, left = space.solve(rows(0.2), r, torch.full((2,), 1e-8, dtype=torch.float64), 0)
    want = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - 0.2 * b, r)
    torch.testing.assert_close(x, want, rtol=1e-6, atol=1e-7)
    assert (left < 1e-7).all()
    space.forget(torch.tensor([[True], [False]]))
    _, left = space.solve(rows(0.2), r, torch.full((2,), 1e-8, dtype=torch.float64), 0)
    torch.testing.assert_close(left[0], norms(r)[0])
    assert left[1] < 1e-7
