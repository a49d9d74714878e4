"""What integrators to a tolerance share: settings, refusals, statuses, the progress bar."""

import pytest
import torch
from torch import nn

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Damping
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, IntegrationError, KenCarp4, Status


class Raw(Damping):
    """λ as given, unchecked: what a user's own damping may do."""

    depends_on_state = depends_on_time = False

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, t, x):
        return self.value.to(x)


class Falling(Damping):
    """λ(x) = 0.2 − |x|, which a growing state makes negative."""

    depends_on_state, depends_on_time = True, False

    def forward(self, t, x):
        return 0.2 - x.abs()


class NaNAfter(VectorField):
    """f = 1, NaN for the second sample after t = 0.5."""

    def forward(self, t, x):
        late = (torch.as_tensor(t) > 0.5).expand(len(x), 1).clone()
        late[0] = False
        return torch.where(late, torch.nan, 1.0).to(x)


def test_nan_from_f_names_sample_and_time():
    func, x = DampedODEFunc(NaNAfter(), Constant(1.0)), torch.zeros(2, 1, dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    s = solve(func, x, t)
    assert s.status == (Status.SUCCESS, Status.NOT_FINITE)
    assert s.reached[1] == pytest.approx(0.5, abs=1e-3)
    assert torch.isfinite(s.x[:, 0]).all()
    assert torch.isfinite(s.x[:2, 1]).all()
    assert torch.isnan(s.x[3:, 1]).all()
    with pytest.raises(
        IntegrationError, match=r"1 of 2 samples failed, the first at index 1, at t = 0\.5.*NaN or infinite"
    ):
        odeint(func, x, t)


def test_nan_at_the_start():
    x = torch.tensor([[1.0], [torch.nan]])
    assert solve(DampedODEFunc(torch.sin), x, torch.tensor([0.0, 1.0])).status[1] is Status.NOT_FINITE


def test_negative_damping_is_named_per_sample():
    func = DampedODEFunc(torch.sin, Raw(torch.tensor([[1.0], [-1.0]])))
    s = solve(func, torch.ones(2, 1), torch.tensor([0.0, 1.0]))
    assert s.status == (Status.SUCCESS, Status.NEGATIVE_DAMPING)
    s = solve(DampedODEFunc(torch.ones_like, Falling()), torch.zeros(1, 1), torch.tensor([0.0, 1.0]))
    assert s.status == (Status.NEGATIVE_DAMPING,)


def test_anti_damping_that_overflows_is_refused_with_a_reason(dtype):
    func = DampedODEFunc(torch.sin, Constant(torch.tensor([[1.0], [1e3]], dtype=dtype)))
    s = solve(func, torch.ones(2, 1, dtype=dtype), torch.tensor([1.0, 0.0]))
    assert s.status == (Status.SUCCESS, Status.OVERFLOW)
    with pytest.raises(IntegrationError, match="backwards in time damping amplifies; shorten the time span"):
        odeint(func, torch.ones(2, 1), torch.tensor([1.0, 0.0]))


def test_every_status_says_what_to_do():
    assert all(s is Status.SUCCESS or any(w in s.value for w in (": ", "; ")) for s in Status)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rtol": 0.0}, "rtol must be above 0, got 0"),
        ({"atol": -1e-6}, "atol must be above 0, got -1e-06"),
        ({"rtol": float("nan")}, "rtol must be finite"),
        ({"max_steps": 0}, "max_steps must be a positive int, got 0"),
        ({"first_step": 0.0}, "first_step must be above 0"),
        ({"max_step": -1.0}, "max_step must be above 0, got -1"),
        ({"progress": 1}, "progress must be of type bool"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises((ValueError, TypeError), match=words):
        AdaptiveExponential(**settings)


@pytest.mark.parametrize("integrator", [AdaptiveExponential, KenCarp4])
def test_progress_shows_a_bar(integrator, capsys):
    odeint(DampedODEFunc(torch.sin), torch.ones(1, 1), torch.tensor([0.0, 1.0]), integrator(progress=True))
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize("integrator", [AdaptiveExponential(), KenCarp4()], ids=repr)
def test_what_no_step_size_per_sample_can_solve_is_refused(integrator):
    x = torch.randn(4, 3)
    normed, dropped = (DampedODEFunc(nn.Sequential(part, nn.Tanh())) for part in (nn.BatchNorm1d(3), nn.Dropout(0.1)))
    with pytest.raises(
        ValueError, match=r"acts on each sample by itself .* where batch norm \(f\.f\.0\) is in train mode"
    ):
        integrator(normed, x, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"an f without randomness, .* where dropout \(f\.f\.0\) is in train mode"):
        integrator(dropped, x, 0.0, 1.0)
    for func in (normed, dropped):
        integrator(func.eval(), x, 0.0, 1.0)
