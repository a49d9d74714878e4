import math

import pytest
import torch

from dampode import DampedODEFunc, odeint
from dampode.damping import Constant, Gated
from dampode.fields import VectorField
from dampode.functional import phi
from dampode.integrators import ETD2RK, ExponentialEuler, HochbruckOstermann3, HochbruckOstermann4, Krogstad4
from dampode.weighting import one_plus
from tests.helpers.oracles import Forced

METHODS = [ETD2RK, HochbruckOstermann3, Krogstad4, HochbruckOstermann4]
every_method = pytest.mark.parametrize("method", METHODS)


class Recorder(VectorField):
    """f = 0 that notes the times it is called at."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, t, x):
        self.times.append(float(t))
        return torch.zeros_like(x)


class Polynomial(VectorField):
    """f(x, t) = t^power."""

    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, t, x):
        return torch.ones_like(x) * t**self.power


@pytest.mark.parametrize(
    ("method", "nodes"),
    [
        (ETD2RK, [0, 1]),
        (HochbruckOstermann3, [0, 1 / 2, 2 / 3]),
        (Krogstad4, [0, 1 / 2, 1 / 2, 1]),
        (HochbruckOstermann4, [0, 1 / 2, 1 / 2, 1, 1 / 2]),
    ],
)
def test_f_is_called_at_the_nodes(method, nodes):
    f = Recorder()
    method(steps=2)(DampedODEFunc(f, Constant(3.0)), torch.ones(2, 1), 1.0, 1.4)
    assert f.times == pytest.approx([1 + 0.2 * c for c in nodes] + [1.2 + 0.2 * c for c in nodes], abs=1e-12)


@pytest.mark.parametrize("lam", [0.0, 1e-6, 0.3, 10.0, 1e6])
@every_method
def test_exact_where_f_is_a_polynomial_of_t(method, lam):
    """x' = −λx + t^p has x(h) = e^{z} x + h^{p+1} p! φ_{p+1}(z): linear f for all, quadratic for those with φ_3."""
    x, h = torch.full((1, 1), 2.0, dtype=torch.float64), 0.5
    z = torch.tensor(-h * lam, dtype=torch.float64)
    for p in range(3 if method.order == 4 else 2):
        got = method()(DampedODEFunc(Polynomial(p), Constant(lam)), x, 0.0, h)
        want = phi(0, z) * x + h ** (p + 1) * math.factorial(p) * phi(p + 1, z)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-15)


def error(method, steps, func, x, exact, t0=0.0):
    return (method(steps=steps)(func, x, t0, t0 + 1.0) - exact).abs().amax().item()


@pytest.mark.parametrize("damping", ["vector", "gated"])
@every_method
def test_classical_order_on_a_forced_coupled_problem(method, damping):
    lam = torch.tensor([0.0, 0.3, 1.0, 4.0, 9.0], dtype=torch.float64)
    damping = Constant(lam) if damping == "vector" else Gated(5).double()
    func, x = DampedODEFunc(Forced(5), damping, one_plus), torch.randn(3, 5, dtype=torch.float64)
    with torch.no_grad():
        exact = HochbruckOstermann4(steps=500)(func, x, 0.0, 1.0)
    observed = math.log2(error(method, 40, func, x, exact) / error(method, 80, func, x, exact))
    assert observed == pytest.approx(method.order, abs=0.25)


@every_method
def test_order_is_uniform_in_damping(method):
    """Past the transient the worst error over λ in 1e0..1e4 at rho = 1 falls at the declared stiff order."""
    func = DampedODEFunc(Forced(9), Constant(torch.logspace(0, 4, 9, dtype=torch.float64)))
    with torch.no_grad():
        x = HochbruckOstermann4(steps=200)(func, torch.zeros(2, 9, dtype=torch.float64), -1.0, 0.0)
        exact = HochbruckOstermann4(steps=500)(func, x, 0.0, 1.0)
        observed = math.log2(error(method, 32, func, x, exact) / error(method, 128, func, x, exact)) / 2
    assert observed > method.stiff_order - 0.5


def test_higher_order_is_worth_its_calls():
    func, x = DampedODEFunc(Forced(4), Constant(50.0)), torch.randn(2, 4, dtype=torch.float64)
    exact = HochbruckOstermann4(steps=300)(func, x, 0.0, 1.0)
    euler = (ExponentialEuler(steps=80)(func, x, 0.0, 1.0) - exact).norm()
    for method, steps in zip(METHODS, (40, 26, 20, 16), strict=True):  # equal calls of f
        assert (method(steps=steps)(func, x, 0.0, 1.0) - exact).norm() < euler / 20


@every_method
def test_huge_damping_neither_overflows_nor_grows(method, dtype):
    func = DampedODEFunc(Forced(3, dtype=dtype), Constant(1e8))
    x = method(steps=3)(func, torch.ones(2, 3, dtype=dtype), 0.0, 1.0)
    assert torch.isfinite(x).all()
    assert x.abs().max() < 1e-6


def test_coefficients_stay_on_the_shape_of_damping(monkeypatch):
    import dampode.integrators.exponential_rk as module

    sizes = []
    monkeypatch.setattr(module, "phis", lambda z, phis=module.phis: sizes.append(z.numel()) or phis(z))
    for method in METHODS:
        method()(DampedODEFunc(lambda x: x, Constant(torch.ones(4, 1, 1))), torch.randn(8, 4, 5, 5), 0.0, 1.0)
    assert max(sizes) <= 3 * 4


@pytest.mark.slow
def test_a_compiled_solve_with_tensor_times():
    func, x, t = (
        DampedODEFunc(Forced(3), Constant(2.0)),
        torch.randn(2, 3, dtype=torch.float64),
        torch.linspace(0, 1, 4),
    )
    compiled = torch.compile(lambda x, t: odeint(func, x, t, Krogstad4(steps=2)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, t), odeint(func, x, t, Krogstad4(steps=2)))


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_float32_agrees_with_float64(rho):
    results = []
    for dtype in (torch.float32, torch.float64):
        func = DampedODEFunc(Forced(3, dtype=dtype), Constant(7.0), lambda lam: rho)
        results.append(HochbruckOstermann4(4)(func, torch.ones(2, 3, dtype=dtype), 0.0, 1.0).double())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
