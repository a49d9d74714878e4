"""Dense output: its order, its cubic, and its cost."""

import pytest
import torch
from scipy.integrate import solve_ivp

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.functional import phis
from dampode.integrators import AdaptiveExponential
from dampode.integrators.dense_output import DenseOutput, Interpolant
from tests.helpers.oracles import Forced

TIGHT = AdaptiveExponential(rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 3.0, 500.0])
def test_dense_output_is_of_order_three(lam):
    func, x = DampedODEFunc(Forced(3), Constant(lam)), torch.randn(2, 3, dtype=torch.float64)
    middle = odeint(func, x, torch.tensor([0.0, 1.0], dtype=torch.float64), TIGHT)[-1]
    errors = []
    for h in (0.08, 0.04):
        t = 1.0 + torch.tensor([0.0, 0.3 * h, 0.7 * h, h], dtype=torch.float64)
        coarse = odeint(func, middle, t, AdaptiveExponential(1.0, 1.0, first_step=h))
        errors.append((coarse - odeint(func, middle, t, TIGHT))[1:3].abs().max().item())
    assert torch.tensor(errors[0] / errors[1]).log2() > 3.0  # h^4 locally where λh is small, h^3/λ where it is large


def test_dense_output_integrates_its_cubic():
    """x' = −λ x + N(θ), the cubic given, against SciPy's DOP853 at three times inside the step."""
    x, n1, slope, curve, cubic = torch.randn(5, 1, 3, dtype=torch.float64).unbind()
    lam, h = torch.tensor([0.0, 1.0, 40.0], dtype=torch.float64), 0.7

    def rhs(t, y):
        s = t / h
        n = n1 + s * (slope + cubic / 2) + s**2 * (curve - 1.5 * cubic) + s**3 * cubic
        return (n - lam * torch.from_numpy(y)).numpy()[0]

    times = [0.1, 0.4, 0.7]
    exact = solve_ivp(rhs, (0, h), x[0].numpy(), method="DOP853", rtol=1e-12, atol=1e-13, t_eval=times).y.T
    dense = DenseOutput(x, torch.tensor(times[:2], dtype=torch.float64))
    step = torch.full((1, 1), h, dtype=torch.float64)
    inside = Interpolant(x, n1, slope, curve, cubic, lam, step)
    dense.add(inside, step.reshape(-1))
    states = torch.cat((dense.states(), inside.state(torch.ones_like(step))[None]))
    torch.testing.assert_close(states[:, 0], torch.from_numpy(exact.copy()), rtol=1e-9, atol=1e-10)


def test_dense_output_meets_the_step_at_its_end():
    x, n1, slope, curve = torch.randn(4, 2, 3, dtype=torch.float64).unbind()
    h, lam = torch.full((2, 1), 0.3, dtype=torch.float64), torch.tensor([0.0, 1.0, 9.0], dtype=torch.float64)
    inside = Interpolant(x, n1, slope, curve, torch.zeros_like(x), lam, h)
    e, p1, p2, p3 = phis(-lam * h)
    torch.testing.assert_close(inside.state(torch.ones_like(h)), e * x + h * (p1 * n1 + p2 * slope + 2 * p3 * curve))


def test_output_times_cost_no_calls():
    func, x = DampedODEFunc(Forced(3), Constant(2.0)), torch.randn(2, 3, dtype=torch.float64)
    two, many = (solve(func, x, torch.linspace(0, 2, n, dtype=torch.float64)) for n in (2, 301))
    assert torch.equal(two.nfe, many.nfe)
    assert torch.equal(two.x[-1], many.x[-1])
    assert many.x.shape == (301, 2, 3)
    assert torch.equal(many.x[0], x)
