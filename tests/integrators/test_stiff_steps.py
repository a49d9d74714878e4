"""Stiffness found by measurement: at any λ, in solve and odeint, and never where accuracy bounds the steps."""

import warnings

import pytest
import torch
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.integrators import AdaptiveExponential, ExponentialAdams, IntegrationError, Status, TorchDiffEq
from dampode.integrators.stiff_steps import StiffnessWarning
from tests.helpers.oracles import Forced


def relaxation(x):
    """x0' = −x0, x1' = 1000 (cos x0 − x1)."""
    return torch.stack((-x[:, 0], 1e3 * (torch.cos(x[:, 0]) - x[:, 1])), 1)


def van_der_pol(x):
    """μ = 100."""
    return torch.stack((x[:, 1], 100 * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]), 1)


STIFF = [(relaxation, [1.0, 0.0], 1.0, 0.0), (relaxation, [1.0, 0.0], 1.0, 1.0), (van_der_pol, [2.0, 0.0], 5.0, 0.0)]
INTEGRATORS = [
    AdaptiveExponential(1e-3, 1e-6),
    AdaptiveExponential(1e-6, 1e-8),
    ExponentialAdams(1e-6, 1e-8),
    TorchDiffEq(),
]


@pytest.mark.parametrize(("f", "start", "span", "lam"), STIFF)
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=repr)
def test_a_stiff_field_is_found_at_any_damping(f, start, span, integrator, lam):
    func, x = DampedODEFunc(f, Constant(lam)), torch.tensor([start], dtype=torch.float64)
    t = torch.tensor([0.0, span], dtype=torch.float64)
    with pytest.warns(StiffnessWarning, match=r"f itself is stiff: stability and not accuracy bounded .*use KenCarp4"):
        odeint(func, x, t, integrator)
    with pytest.warns(StiffnessWarning, match="Do not trust gradients through such steps"):
        solve(func, x.requires_grad_(), t, integrator)
    with pytest.warns(StiffnessWarning, match="f itself is stiff"):
        DampedBlock(f, Constant(lam), integrator=integrator, t_span=(0.0, span))(x.detach())


def test_max_steps_names_stiffness_and_its_remedy():
    func, x = DampedODEFunc(relaxation, Constant(0.0)), torch.tensor([[1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    t = torch.tensor([0.0, 10.0], dtype=torch.float64)
    assert solve(func, x, t, AdaptiveExponential(max_steps=300)).status == (Status.STIFF,) * 2
    assert solve(func, x, t, ExponentialAdams(max_steps=500)).status == (Status.STIFF,) * 2
    with pytest.raises(IntegrationError, match=r"because f is stiff: .* use KenCarp4"):
        odeint(func, x, t, AdaptiveExponential(max_steps=300))
    fast = solve(
        DampedODEFunc(lambda x: -1e36 * x, Constant(0.5)), torch.ones(1, 2), t, AdaptiveExponential(max_steps=200)
    )
    assert fast.status == (Status.STIFF,)


@pytest.mark.slow
def test_fields_whose_steps_accuracy_bounds_are_not_called_stiff():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    fields = [Forced(3, 2.0), net, lambda x: 10 * net(x), lambda x: -torch.sin(x), torch.zeros_like]
    x, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.0, 10.0], dtype=torch.float64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for f in fields:
            for lam in (0.0, 1.0, 300.0):
                for rtol in (1e-2, 1e-4, 1e-6):
                    odeint(DampedODEFunc(f, Constant(lam)), x, t, AdaptiveExponential(rtol, 1e-2 * rtol))
                    odeint(DampedODEFunc(f, Constant(lam)), x, t, ExponentialAdams(rtol, 1e-2 * rtol))
            odeint(DampedODEFunc(f, Constant(0.5)), x, t, TorchDiffEq())
            odeint(DampedODEFunc(f, Constant(0.5)), x, t, TorchDiffEq("rk4", options={"step_size": 0.05}))


def test_a_field_that_oscillates_is_not_called_stiff_by_the_multistep_method():
    """Lorenz and Lotka-Volterra: accuracy bounds most steps, and some are near the bound of stability."""

    def lorenz(x):
        a, b, c = x.unbind(1)
        return torch.stack((10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c), 1)

    def predators(x):
        a, b = x.unbind(1)
        return torch.stack((a * (1.5 - b), b * (a - 3)), 1)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for f, start in ((lorenz, [1.0, 1.0, 20.0]), (predators, [1.0, 1.0])):
            x, t = torch.tensor([start], dtype=torch.float64), torch.tensor([0.0, 15.0], dtype=torch.float64)
            for rtol in (1e-2, 1e-4):
                odeint(DampedODEFunc(f, Constant(0.0)), x, t, ExponentialAdams(rtol, 1e-2 * rtol))


def test_stiffness_where_rho_is_one_is_not_blamed_on_rho():
    func = DampedODEFunc(lambda x: -300 * torch.sinh(x), Constant(300.0))
    with pytest.warns(StiffnessWarning) as found:
        solve(func, torch.ones(1, 2, dtype=torch.float64), torch.tensor([0.0, 3.0], dtype=torch.float64))
    assert all("ρ = 1 or" not in str(w.message) for w in found)


REST = [
    AdaptiveExponential(),
    AdaptiveExponential(recompute=1),
    ExponentialAdams(),
    TorchDiffEq(),
    TorchDiffEq("bosh3"),
]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("strength", [1000.0, 0.01])
@pytest.mark.parametrize("integrator", REST, ids=repr)
def test_gradients_through_a_state_at_rest_are_not_to_be_trusted(integrator, strength, wanted):
    """No error bounds the steps of exact zeros. The right gradient is e^{-10,000}; steps give up to 1e44."""
    x = torch.zeros(2, 1, dtype=torch.float64)
    x[1] = 0.3 * (strength < 1)
    func, t = DampedODEFunc(lambda x: -strength * x, Constant(0.0)), torch.tensor([0.0, 10.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solve(func, x.requires_grad_(wanted), t, integrator)
    assert ["do not trust gradients" in str(w.message) for w in caught] == [True] * (wanted and strength > 1)
