"""Coupled samples and random fields are refused by measurement; fields of one sample each are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Damping, Gated
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, KenCarp4, Status, TorchDiffEq

integrators = pytest.mark.parametrize(
    "integrator",
    [AdaptiveExponential(), AdaptiveExponential(recompute=3), KenCarp4()],
    ids=["exponential", "recompute", "implicit"],
)
T = torch.tensor([0.0, 1.0])


class MeanDamping(Damping):
    """λ from the mean over the samples."""

    depends_on_state, depends_on_time = True, False

    def forward(self, t, x):
        return 0.1 + x.mean(0, keepdim=True).abs()


class FirstTime(VectorField):
    """A field that takes the first sample's time for all."""

    def forward(self, t, x):
        return torch.cos(t.reshape(-1)[0]) * x


class Late(VectorField):
    """A field whose samples meet in the second half of the solve."""

    def forward(self, t, x):
        return torch.where(t > 0.5, mean(x), -x)


class NodeAttention(nn.Module):
    """Attention in which the samples are the tokens."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x[None], x[None], x[None])[0][0]


class Recurrent(nn.Module):
    """A recurrent network with dropout."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 4, 2, dropout=0.2, batch_first=True)

    def forward(self, x):
        return self.gru(x[..., None])[0][..., 0]


def mean(x):
    return x.mean(0, keepdim=True).expand_as(x)


def heat(x):
    """A rod of samples with fixed ends."""
    rate = torch.zeros_like(x)
    rate[1:-1] = 10 * x.diff(dim=0).diff(dim=0)
    return rate


def batch_normed(x):
    return torch.tanh(F.batch_norm(x, None, None, training=True))


COUPLED = {
    "mean": DampedODEFunc(mean, Constant(0.0)),
    "stiff mean": DampedODEFunc(mean, Constant(1e4)),
    "mean of the first sample alone": DampedODEFunc(lambda x: torch.cat((mean(x)[:1], -x[1:])), Constant(0.0)),
    "functional batch norm": DampedODEFunc(batch_normed, Constant(0.3)),
    "attention": DampedODEFunc(NodeAttention(), Constant(0.3)),
    "graph": DampedODEFunc(lambda x: torch.tanh(torch.linspace(0, 1, 36).reshape(6, 6) @ x), Constant(0.3)),
    "heat equation": DampedODEFunc(heat, Constant(0.0)),
    "λ": DampedODEFunc(torch.sin, MeanDamping()),
    "ρ": DampedODEFunc(torch.sin, Gated(4), lambda lam: 1 + mean(lam)),
    "time": DampedODEFunc(FirstTime(), Constant(0.1)),
    "late": DampedODEFunc(Late(), Constant(0.1)),
}

RANDOM = {
    "dropout": DampedODEFunc(lambda x: F.dropout(torch.tanh(x), 0.5), Constant(0.3)),
    "RReLU": DampedODEFunc(lambda x: F.rrelu(torch.sin(3 * x), training=True), Constant(0.3)),
    "noise": DampedODEFunc(lambda x: torch.sin(x) + 0.01 * torch.randn_like(x), Constant(0.3)),
    "recurrent": DampedODEFunc(Recurrent(), Constant(0.3)),
}


@integrators
@pytest.mark.parametrize("case", COUPLED)
def test_coupled_samples_are_refused(case, integrator):
    with pytest.raises(ValueError, match=r"acts on each sample by itself .* x\[None\], of shape \(1, 6, 4\)"):
        solve(COUPLED[case], torch.randn(6, 4), T, integrator)


@integrators
def test_a_state_whose_first_axis_holds_variables_is_refused(integrator):
    func = DampedODEFunc(lambda y: torch.stack((y[1], -y[0])), Constant(0.0))
    with pytest.raises(ValueError, match=r"one system is x\[None\], of shape \(1, 2, 5\)"):
        solve(func, torch.randn(2, 5, dtype=torch.float64), T, integrator)


@integrators
@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("case", RANDOM)
def test_random_fields_are_refused(case, samples, integrator):
    with pytest.raises(ValueError, match="an f without randomness"):
        solve(RANDOM[case], torch.randn(samples, 4), T, integrator)


def test_the_system_of_a_coupled_batch_is_solved():
    x = torch.randn(6, 4, dtype=torch.float64)
    s = solve(DampedODEFunc(lambda x: x.mean(1, keepdim=True).expand_as(x), Constant(0.0)), x[None], T)
    torch.testing.assert_close(s.x[-1, 0], x + (torch.tensor(1.0).double().exp() - 1) * mean(x), rtol=1e-3, atol=1e-4)


INDEPENDENT = {
    "dense": nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 4)),
    "convolution": nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 3, padding=1), nn.Tanh(), nn.Flatten()),
    "batch norm in eval mode": nn.Sequential(nn.BatchNorm1d(4), nn.Tanh()).eval(),
    "dropout of nothing": nn.Sequential(nn.Dropout(0.0), nn.Tanh()),
    "constant": torch.ones_like,
    "zero": torch.zeros_like,
    "leaves its domain": lambda x: torch.where(x > 0.5, torch.nan, 0.1).to(x),
    "gradient of an energy": lambda x: torch.func.vmap(torch.func.grad(lambda z: -(z**4).sum()))(x),
}


@integrators
@pytest.mark.parametrize("case", INDEPENDENT)
def test_fields_of_each_sample_are_not_refused(case, integrator, dtype):
    f = INDEPENDENT[case]
    func = DampedODEFunc(f.to(dtype) if isinstance(f, nn.Module) else f, Constant(0.5))
    state, x = torch.get_rng_state(), torch.linspace(-1, 0.8, 36, dtype=dtype).reshape(9, 4)
    s = solve(func, x, T, integrator)
    assert torch.equal(torch.get_rng_state(), state)
    assert s.status[0] is Status.SUCCESS
    assert set(s.status) <= {Status.SUCCESS, Status.NOT_FINITE}


def test_it_costs_two_calls_of_a_usual_solve():
    calls = []
    func = DampedODEFunc(lambda x: calls.append(1) or torch.sin(5 * x), Constant(1.0))
    s = solve(func, torch.randn(5, 3), T, AdaptiveExponential())
    steps = int((s.accepted + s.rejected).max())
    assert 2 < steps < 32
    assert len(calls) == 2 + 4 * steps + 2  # the start, the length of the first step, the steps, the probes


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_torchdiffeq_to_a_tolerance_refuses_random_fields(method):
    func = DampedODEFunc(lambda x: F.dropout(-x, 0.5, training=True), Constant(0.1))
    for ask in (solve, odeint):
        with pytest.raises(ValueError, match="a tolerance needs an f without randomness"):
            ask(func, torch.ones(6, 4), torch.tensor([0.0, 1.0]), TorchDiffEq(method))


@pytest.mark.parametrize(
    "integrator",
    [TorchDiffEq(method, 1e-3, 1e-3) for method in ("dopri5", "bosh3", "adaptive_heun", "scipy_solver")]
    + [AdaptiveExponential(), KenCarp4()],
    ids=str,
)
def test_dropout_of_a_single_number_is_found_whatever_it_draws(integrator):
    """One number that is dropped or not repeats by chance in every second call."""
    func = DampedODEFunc(lambda x: F.dropout(x, 0.5), Constant(0.0))
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.raises(ValueError, match="an f without randomness"):
            odeint(func, torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 1e-3]), integrator)
