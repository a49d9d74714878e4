"""The adaptive exponential pair: Eq. 4 to a tolerance, with a step size of its own for every sample."""

import functools
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.integrators.exponential.loop import CALLS, AdaptiveLoop, Attempting
from dampode.integrators.exponential.replay import replay
from dampode.integrators.exponential.step import attempt
from dampode.integrators.exponential.stiffness import warn_if_stiff
from dampode.integrators.recompute import require_segments
from dampode.integrators.solution import Solution
from dampode.integrators.step_control import Tolerance
from dampode.integrators.to_tolerance import TolerantIntegrator, begun


@dataclass(frozen=True)
class AdaptiveExponential(TolerantIntegrator):
    """Krogstad's fourth-order exponential method with an error estimate and a step size per sample.

    Damping is exact, so the step follows f and not λ: for ρ = 1 the calls of f stop growing with λ. With ρ ~ λ the
    vector field is as stiff as the damping, and an explicit method needs about ρ Lip(f) (t1 − t0) steps, whose errors
    may add up beyond the tolerance: use `KenCarp4`.

    The error of a step is estimated, with D the third difference of N across this step and the last, as

        u h 2φ_2(−hλ) [ |N(x⁺, t+h) − N_4| / 6 + (1 − 0.8 φ_1(−hλ)) |D| / 20 ],

    and kept below atol + rtol |x| in root mean square over a sample: the first term sees how far the stages disagree,
    the second sees f(t), at whose times alone the stages cannot disagree; u >= 1 grows where ρJ undoes the damping
    that the rest counts on. It bounds a step's error, not their sum. N(x⁺, t+h) is the next step's N_1, so an
    accepted step costs four calls of f. At λ = 0 this is the classical Runge-Kutta method. Batch mates do not influence
    one another where f acts on each sample by itself: samples that are done are held, not dropped, and f always sees
    the whole batch, samples at different times. Batch norm and dropout in train mode are refused.

    Gradients flow through the accepted steps, to the state, to the parameters of f and λ and, in `odeint`, to the
    times, where they are those of the exact flow; double backward works.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: attempted steps a sample may take.
        first_step: length of the first step, > 0; None estimates it from two calls of f. One many times too long can
            pass unnoticed.
        max_step: length of the longest step, > 0; None for no bound. Where f is 0 or constant steps grow tenfold each
            and may leap over a pulse: bound them by its length. The asked times bound no step.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile a whole attempt, f included, by torch.compile: a step's own cost falls several
            times over, and the first solve of a new field, shape or dtype, with gradients or without, takes seconds
            to compile. It needs what torch.compile needs: a C++ compiler on a CPU, Triton on a GPU. torch.compile gives
            up on the ninth f of different code in a process, which then runs as without.
        checkpoint: segments of the accepted steps that the backward pass computes anew, at most one a step; None keeps
            what every step computed. The solve runs without a graph, and its accepted steps are then taken again in
            segments: two more passes of f over them, and the same gradients from about √N states where checkpoint is
            about √N, N the number of steps.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call: a sample failed; the words say which, at which time, and what to do.

    Source: Krogstad 2005, Eq. 51; the estimate and the control are described above; PI control: Gustafsson 1991.
    """

    progress: bool = False
    compile: bool = False
    checkpoint: int | None = field(default=None, repr=False)  # changes no value: no part of an architecture

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_instance(self.progress, bool, "progress")
        require_instance(self.compile, bool, "compile")
        require_segments(self.checkpoint)

    def solve(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """The states with statistics and a status per sample; warns where the method is out of its depth."""
        solution = self._run(func, x, times)
        warn_if_stiff(func, solution)
        return solution

    def _steps_taken(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """A solve, its steps in segments where that is asked for and gradients are."""
        tol = Tolerance(self.rtol, self.atol)
        how = _compiled_attempt() if self.compile else attempt
        steps = self.max_steps, self.first_step, self.max_step
        if self.checkpoint is None:
            return AdaptiveLoop(func, x, times, tol, how).run(*steps, self.progress)
        start = begun(func, x, times[0])
        with torch.no_grad():
            loop = AdaptiveLoop(func, x, times, tol, how)
            loop.taken = None if start is None else []
            solution = loop.run(*steps, self.progress)
        solution = replace(solution, nfe=solution.nfe + torch.is_grad_enabled())  # the call of `begun`
        if start is None or not loop.taken:
            return solution
        xs = replay(func, x, start[1], loop.clock.tau(times[1:-1]), loop.clock, loop.taken, self.checkpoint)
        if solution.failure() is not None:
            xs = torch.where(torch.isnan(solution.x), torch.nan, xs)
        return replace(solution, x=xs, nfe=solution.nfe + CALLS * solution.accepted)


@functools.cache
def _compiled_attempt() -> Attempting:
    """`attempt` under torch.compile, one for all solves: its cache of compiled forms is shared."""
    compiled: Attempting = torch.compile(attempt)
    return compiled
