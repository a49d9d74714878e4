"""AdaptiveExponential on stiff problems, with the Jacobian's diagonal as λ: no answer is wrong without a word."""

import warnings

import pytest
import torch

from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant, Damping
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, Status
from dampode.integrators.stiff_steps import StiffnessWarning
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
    depends_on_time = False

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, t, x):
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


@pytest.mark.parametrize("rtol", [1e-3, 1e-4, pytest.param(1e-6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damping", ["start", "present"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_an_answer_is_right_or_the_solve_says_why_not(problem, damping, rtol):
    integrator = AdaptiveExponential(rtol, rtol * problem.atol, max_steps=MAX_STEPS)
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s = solve(func(problem, damping), problem.start, torch.tensor([0.0, problem.end]).double(), integrator)
    assert s.status[0] in (Status.SUCCESS, Status.STIFF, Status.MAX_STEPS)
    if s.status == (Status.SUCCESS,) and not any(issubclass(w.category, StiffnessWarning) for w in caught):
        want = torch.tensor(ENDS[problem.name], dtype=torch.float64)
        assert ((s.x[-1, 0] - want).abs() / (integrator.atol + integrator.rtol * want.abs())).max() < 30


@pytest.mark.parametrize("run", [solve, odeint])
def test_errors_that_add_up_are_said(run):
    """HIRES conserves y7 + y8. It was 751 tolerances off: each step erred by a quarter of one, to the same side."""
    hires = next(p for p in PROBLEMS if p.name == "HIRES")
    t, integrator = torch.tensor([0.0, hires.end]).double(), AdaptiveExponential(1e-3, 1e-7)
    words = r"errors of such steps add up: their estimates sum to .* tolerances in sample 0, .*KenCarp4"
    with torch.no_grad(), pytest.warns(StiffnessWarning, match=words) as found:
        run(func(hires, "present"), hires.start, t, integrator)
    assert len(found) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_slow_state_is_no_creeping_one(lam):
    """A thousand small steps, or a damping that f does not undo, add nothing up."""
    f, x = DampedODEFunc(lambda x: 0.01 * torch.cos(x), Constant(lam)), torch.ones(1, 2, dtype=torch.float64)
    s = solve(f, x, torch.tensor([0.0, 50.0]).double(), AdaptiveExponential(1e-3, 1e-6, max_step=0.05))
    assert s.status == (Status.SUCCESS,)
    assert s.accepted.item() >= 1000
