"""Fields that were written for torchdiffeq run as they are."""

import pytest
import torch
import torchdiffeq
from torch import nn

from dampode import DampedBlock, DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import TimeDependent
from dampode.integrators import AdaptiveExponential, Krogstad4, TorchDiffEq


class Swung(nn.Module):
    """A module as torchdiffeq calls it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2).double()
        self.steps = 0

    def forward(self, t, y):
        return torch.tanh(self.net(y)) * torch.cos(t)

    def callback_accept_step(self, t, y, dt):
        self.steps += 1


class FirstTimeOnly(nn.Module):
    """A module that takes t to be one number."""

    def forward(self, t, y):
        return -y if t < 0.5 else y


def test_a_module_of_torchdiffeq_runs_as_it_is():
    field, y0 = Swung(), torch.randn(3, 2, dtype=torch.float64)
    t = torch.linspace(0.0, 2.0, 4, dtype=torch.float64)
    want = torchdiffeq.odeint(field, y0, t, rtol=1e-9, atol=1e-10, method="dopri5")
    func = DampedODEFunc(TimeDependent(field), Constant(0.0))
    accepted = field.steps
    same = odeint(func, y0, t, TorchDiffEq("dopri5", rtol=1e-9, atol=1e-10))
    assert torch.equal(same, want)
    assert field.steps == 2 * accepted > 0
    torch.testing.assert_close(odeint(func, y0, t, AdaptiveExponential(1e-9, 1e-10)), want, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(odeint(func, y0, t, Krogstad4(60)), want, rtol=1e-6, atol=1e-7)
    assert {name.removeprefix("f.f.") for name, _ in func.named_parameters()} == set(dict(field.named_parameters()))


def test_in_a_block_t_is_a_tensor():
    seen = []
    block = DampedBlock(TimeDependent(lambda t, x: seen.append(t) or torch.sin(t) * x))
    block(torch.ones(2, 1))
    assert isinstance(seen[0], torch.Tensor)
    assert (seen[0].shape, seen[0].dtype) == ((), torch.float32)


def test_a_field_of_one_number_t_is_told_what_t_is():
    func, y0, t = (
        DampedODEFunc(TimeDependent(FirstTimeOnly()), Constant(0.0)),
        torch.ones(2, 1),
        torch.tensor([0.0, 1.0]),
    )
    with pytest.raises(RuntimeError, match="Boolean value of Tensor") as raised:
        odeint(func, y0, t)
    assert "f got t of shape (2, 1), a time per sample" in raised.value.__notes__[0]
    assert odeint(func, y0, t, TorchDiffEq("rk4", options={"step_size": 0.1})).shape == (2, 2, 1)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"f must be callable as f\(t, x\), got int"):
        TimeDependent(3)
