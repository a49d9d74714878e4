"""The compiled step gives what the uncompiled one gives."""

import pytest
import torch

from dampode import DampedODEFunc, solve
from dampode.damping import Constant, Learned
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, Status
from tests.helpers.oracles import Forced


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
def test_a_compiled_step_gives_the_same_states_and_gradients():
    times = torch.linspace(0, 2, 4, dtype=torch.float64)
    func = DampedODEFunc(Forced(3), Learned(0.5, 5.0, shape=(3,))).double()
    start = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for compile in (False, True):
        x = start.clone().requires_grad_()
        s = solve(func, x, times, AdaptiveExponential(1e-6, 1e-8, compile=compile))
        results.append((s.x, s.nfe, *torch.autograd.grad(s.x.square().sum(), (x, *func.parameters()))))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_a_compiled_step_gives_up_the_same_samples():
    func = DampedODEFunc(lambda x: torch.where(x < 0.5, torch.nan, -x), Constant(1.0))
    x = torch.tensor([[1.0], [9.0]], dtype=torch.float64)
    with torch.no_grad():
        eager, compiled = (
            solve(func, x, torch.tensor([0.0, 1.0]), AdaptiveExponential(compile=compile)) for compile in (False, True)
        )
    assert compiled.status == eager.status == (Status.NOT_FINITE, Status.SUCCESS)
    torch.testing.assert_close(compiled.reached, eager.reached, rtol=1e-8, atol=0)
    torch.testing.assert_close(compiled.x, eager.x, equal_nan=True)
    assert compiled.rejected[0] < 110


class Counted(VectorField):
    """A field that counts its calls."""

    def __init__(self):
        super().__init__()
        self.nfe = 0

    def forward(self, t, x):
        self.nfe += 1
        return torch.cos(x)


def test_a_counter_of_calls_is_not_new_code_in_every_call():
    func, x = DampedODEFunc(Counted(), Constant(1.0)), torch.ones(2, 3, dtype=torch.float64)
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        solution = solve(func, x, torch.tensor([0.0, 20.0]), AdaptiveExponential(compile=True))
    assert func.f.nfe == solution.nfe[0]
    assert solution.nfe[0] > 80
