"""The error estimate of a step of Krogstad's method."""

import torch

from dampode import DampedODEFunc, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential
from dampode.integrators.exponential.error_estimate import (
    CurveChange,
    change_of_curve,
    error_estimate,
    jacobian_growth,
    third_difference,
)
from dampode.integrators.exponential.step import initial_state
from dampode.integrators.exponential_rk import krogstad_step
from dampode.integrators.splitting import Splitting


def test_error_estimate_sees_f_of_t_alone():
    """A field of t alone makes the stages agree; the steps must shrink with its frequency all the same."""

    class Wave(VectorField):
        def forward(self, t, x):
            return torch.sin(40 * t) * torch.ones_like(x)

    x, t = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    for lam in (0.0, 1e3):
        s = solve(DampedODEFunc(Wave(), Constant(lam)), x, t, AdaptiveExponential(1e-6, 1e-9))
        exact = (lam * torch.sin(40 * t[1]) - 40 * torch.cos(40 * t[1]) + 40 * torch.exp(-lam * t[1])) / (lam**2 + 1600)
        assert abs(s.x[-1, 0, 0] - exact) < 1e-6 * max(1.0, exact.abs().item()) + 1e-8
        assert s.accepted > 20


def test_error_estimate_sees_where_rho_f_undoes_the_damping():
    """x' = −λx + μλx: over long steps what the stages disagree by is damped by λ(1 − μ), not by λ."""
    mu, z = torch.tensor([-1, 0.1, 0.5, 0.9, 0.99, 0.9999]).double(), torch.tensor([1, 10, 100, 1e3, 1e4, 1e6]).double()
    lam, mu = z.repeat(len(mu))[:, None], mu.repeat_interleave(len(z))[:, None]
    x, h = torch.ones_like(lam), torch.ones_like(lam)
    splitting = Splitting(DampedODEFunc(lambda x: mu * lam * x, Constant(lam)), 0.0, x)
    step = krogstad_step(splitting, x, splitting.nonlinear(0.0, x), (h / 2, h), h)
    n5, unchanged = splitting.nonlinear(h, step.x), CurveChange(torch.zeros_like(x), torch.zeros_like(x))
    ratio = error_estimate(step, n5, unchanged, splitting.lam, h).abs() / (step.x - torch.exp(-lam * (1 - mu))).abs()
    assert ratio.min() > 1 / 50
    assert ratio.max() < 10
    u = jacobian_growth(step, n5 - step.n4, splitting.lam, h)
    torch.testing.assert_close(u, (2 + lam) / (2 + lam * (1 - mu.clamp(min=0))), rtol=1e-6, atol=0.0)
    assert (ratio / u).min() < 1e-4  # what the estimate would be without
    assert torch.equal(jacobian_growth(step, n5 - step.n4, splitting.lam, -h), torch.ones_like(x))


def test_cubic_is_the_third_derivative_of_n():
    """N(t) = t³ sampled by two steps of different lengths: D = h³ N‴ / 6 = h³; and none behind the first step."""

    def curve(t, h):
        return torch.tensor([[2 * (t**3 - 2 * (t + h / 2) ** 3 + (t + h) ** 3)]], dtype=torch.float64)

    h = torch.tensor([[0.5]], dtype=torch.float64)
    last_h, one = torch.tensor([[0.2]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    change = change_of_curve(curve(1.2, 0.5), h, curve(1.0, 0.2), last_h)
    torch.testing.assert_close(third_difference(change), h**3)
    first = initial_state(one, one, 0 * one)
    change = change_of_curve(curve(1.2, 0.5), h, first.last_curve, first.last_h)
    assert torch.equal(third_difference(change), 0 * one)
