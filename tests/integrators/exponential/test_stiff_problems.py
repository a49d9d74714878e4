"""AdaptiveExponential on stiff problems, with the Jacobian's diagonal as λ: no wrong answer is called a success."""

import pytest
import torch

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Damping
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, IntegrationError, Status
from tests.helpers.stiff_problems import ENDS, PROBLEMS

MAX_STEPS = 500


def diagonal(rate, x):
    """The parts of the Jacobian's diagonal at x that damp, (N, d), by central differences."""
    n, d = x.shape
    moves = torch.diag_embed(1e-3 * x + 1e-6)
    up, down = (rate(0.0, (x[:, None] + move).reshape(-1, d)).reshape(n, d, d) for move in (moves, -moves))
    return ((down - up) / (2 * moves.diagonal(0, 1, 2)[:, :, None])).diagonal(0, 1, 2).clamp(min=0.0)


class Diagonal(Damping):
    """λ(x), the diagonal at the present state."""

    depends_on_state = True

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return diagonal(self.rate, x)


class Split(VectorField):
    """F + λ(x) x."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, t, x):
        return self.rate(t, x) + diagonal(self.rate, x) * x


def func(problem, damping):
    """The problem with the diagonal at the start as λ, or with the one at the present state."""
    if damping == "start":
        return problem.func("diagonal")
    return DampedODEFunc(Split(problem.rate), Diagonal(problem.rate))


@pytest.mark.filterwarnings("ignore::dampode.integrators.stiff_steps.StiffnessWarning")
@pytest.mark.parametrize("rtol", [1e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("damping", ["start", "present"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_an_answer_is_right_or_its_status_says_why_not(problem, damping, rtol):
    integrator = AdaptiveExponential(rtol, rtol * problem.atol, max_steps=MAX_STEPS)
    with torch.no_grad():
        s = solve(func(problem, damping), problem.start, torch.tensor([0.0, problem.end]).double(), integrator)
    if s.status == (Status.SUCCESS,):
        want = torch.tensor(ENDS[problem.name], dtype=torch.float64)
        assert ((s.x[-1, 0] - want).abs() / (integrator.atol + integrator.rtol * want.abs())).max() < 30
    else:
        assert s.status[0] in (Status.ERRORS_ADD_UP, Status.STIFF, Status.MAX_STEPS)


def test_errors_that_add_up_are_said():
    """HIRES conserves y7 + y8. It was 751 tolerances off: each step erred by a quarter of one, to the same side."""
    hires = next(p for p in PROBLEMS if p.name == "HIRES")
    t, integrator = torch.tensor([0.0, hires.end]).double(), AdaptiveExponential(1e-3, 1e-7)
    with torch.no_grad():
        assert solve(func(hires, "present"), hires.start, t, integrator).status == (Status.ERRORS_ADD_UP,)
        with pytest.raises(IntegrationError, match=r"ρ f undoes the damping .* errors of many steps add up .*KenCarp4"):
            odeint(func(hires, "present"), hires.start, t, integrator)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_slow_state_is_no_creeping_one(lam):
    """A thousand small steps, or a damping that f does not undo, add nothing up."""
    f, x = DampedODEFunc(lambda x: 0.01 * torch.cos(x), Constant(lam)), torch.ones(1, 2, dtype=torch.float64)
    s = solve(f, x, torch.tensor([0.0, 50.0]).double(), AdaptiveExponential(1e-3, 1e-6, max_step=0.05))
    assert s.status == (Status.SUCCESS,)
    assert s.accepted.item() >= 1000
