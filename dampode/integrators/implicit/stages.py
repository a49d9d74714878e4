"""The stages of an implicit step. Every sample may be at a different stage."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.newton import Jacobians
from dampode.integrators.implicit.quasi_newton import SecantPairs
from dampode.integrators.step_control import Tolerance

__all__ = ["Iteration", "Solved", "StageEquations", "StageState", "Stages", "iterate"]

_MAX_SECANT_ITERATIONS = 12
"""Of a stage. A shorter step costs less than more iterations."""

_MAX_NEWTON_ITERATIONS = 7
"""Of a stage. A new Jacobian or a shorter step costs less than more iterations."""

_ERROR_SHARE = 0.02
"""The share of the tolerance that the error of a stage may take."""

_RESIDUAL_SHARE = 0.3
"""The share of the tolerance that the residual of a stage may take. Secants may miss a direction in which the equation
is nearly singular: a small correction is then no sign of a small error, but a small residual is."""

_UNKNOWN_RATE = 0.5
"""The rate of convergence before any is measured."""

_LONG_AGO = 1e9
"""In spans: before a first step, the steps in the history lie so far back that they predict no change."""

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(τ, u, solving) -> N, (N, d); the call counts for the samples that are ``solving``."""


class StageEquations(NamedTuple):
    """What does not change while the stages of a step are solved."""

    rows: Tensor
    """The rows that `tableau.combinations` combine, (N, 9, d). The row of a stage is 0 until it is solved."""
    sums: Tensor
    """How the rows are summed to the first guess and to the explicit part of each stage, (N, 5, 2, 9)."""
    times: Tensor
    """τ of the stages, (N, 5)."""
    weight: Tensor
    """w of `tableau.stage_coefficients`."""
    g: Tensor
    """g of `tableau.stage_coefficients`."""
    unit: Tensor
    """A correction is multiplied by this before its norm is taken. A norm of 1 is the error that a stage may have,
    (N, d)."""
    residual_unit: Tensor
    """The same for the residual of (1 + hγλ) U = base + hγ N(U), (N, d)."""
    sample: Tensor
    """0 to N − 1, (N,)."""
    newton: Tensor
    """The samples that iterate by Newton's method, (N, 1). The others use secants."""
    inverse: Tensor | None
    """`Jacobians.inverse`."""


class StageState(NamedTuple):
    """Which stage each sample is at, and its iterate. Values per sample are (N, 1)."""

    u: Tensor
    """The iterate, (N, d)."""
    explicit: Tensor
    """The explicit part of the stage's equation, (N, d)."""
    tau: Tensor
    """τ of the stage."""
    last_u: Tensor
    """The iterate before, (N, d)."""
    last_n: Tensor
    """N there, (N, d)."""
    last_size: Tensor
    """The norm of the last correction."""
    rate: Tensor
    """The rate of convergence."""
    iterations: Tensor
    """The calls of f at this stage."""
    stage: Tensor
    """The number of stages that are solved, at most 4."""
    solving: Tensor
    """Whether stages are left to solve."""
    converged: Tensor
    """Whether no stage has failed to converge."""
    finite: Tensor
    """Whether N was finite at all iterates."""


class Solved(NamedTuple):
    """How the stages of a step came out. Values per sample are (N, 1)."""

    converged: Tensor
    """Whether all five stages converged."""
    again: Tensor
    """Whether a step that did not converge should be tried at the same length, with a new Jacobian."""
    finite: Tensor
    """Whether f was finite."""


Iteration = Callable[[StageEquations, SecantPairs | None, StageState, Tensor], StageState]
"""`iterate`, or its compiled form."""


def iterate(equations: StageEquations, secants: SecantPairs | None, state: StageState, n: Tensor) -> StageState:
    """One iteration. A sample whose stage has converged starts with its next stage.

    Args:
        equations: the equations of the step.
        secants: the pairs kept so far; None where all samples have a Jacobian.
        state: where the samples are.
        n: N at the iterates, (N, d).

    Returns:
        Where the samples are afterwards.
    """
    u, solving, stage, newton = state.u, state.solving, state.stage, equations.newton
    iterations = state.iterations + 1
    again = solving & (iterations > 1)
    scaled = torch.addcmul(torch.addcmul(-u, equations.weight, state.explicit), equations.g, n)
    residual = scaled / equations.weight
    move = scaled
    if secants is not None:
        move = secants.correction(u - state.last_u, n - state.last_n, again & ~newton, scaled, equations.g)
    if equations.inverse is not None:
        move = torch.where(newton, torch.bmm(residual[:, None], equations.inverse.mT)[:, 0], move)
    size = torch.linalg.vector_norm(move * equations.unit, dim=1, keepdim=True)
    ratio = (size / state.last_size).nan_to_num(0.99, 0.99)
    measured = torch.where(newton, torch.maximum(0.3 * state.rate, ratio), ratio)
    rate = torch.where(again, measured, state.rate).clamp(1e-3, 0.99)
    new = torch.where(solving, u + move, u)
    equations.rows[equations.sample, stage[:, 0] + 3] = new
    solved = solving & _is_solved(equations, residual, size, rate)
    failed = solving & ~solved & (_is_hopeless(newton, iterations, size, ratio, rate) | ~torch.isfinite(size))
    # an iterate that is not finite says nothing about f
    nonfinite = solving & ~torch.isfinite(n.sum(1, keepdim=True)) & torch.isfinite(u.sum(1, keepdim=True))
    onward = solved & (stage < 4)
    stage = stage + onward
    guess, explicit, tau = _stage_start(equations, stage)
    return StageState(
        u=torch.where(onward, guess, new),
        explicit=explicit,
        tau=tau,
        last_u=u,
        last_n=n,
        last_size=size,
        rate=rate,
        iterations=torch.where(onward, 0, iterations),
        stage=stage,
        solving=onward | (solving & ~solved & ~failed),
        converged=state.converged & ~failed,
        finite=state.finite & ~nonfinite,
    )


def _is_solved(equations: StageEquations, residual: Tensor, size: Tensor, rate: Tensor) -> Tensor:
    """Whether the error that is left after a correction of norm ``size`` is small enough, (N, 1).

    A geometric series estimates it: size · rate / (1 − rate). By secants, the residual before the correction counts
    as well.
    """
    left = rate / (1 - rate)
    residual_size = torch.linalg.vector_norm(residual * equations.residual_unit, dim=1, keepdim=True)
    error = torch.where(equations.newton, left * size, torch.maximum(left * size, left.clamp(min=0.1) * residual_size))
    return error <= 1


def _is_hopeless(newton: Tensor, iterations: Tensor, size: Tensor, ratio: Tensor, rate: Tensor) -> Tensor:
    """Whether the iterations that are left will not solve the stage, (N, 1).

    Newton's method converges linearly, so it is given up as soon as its rate is too slow. Secants may recover.
    """
    left = (_MAX_NEWTON_ITERATIONS - iterations).clamp(min=0)
    slow = (iterations > 1) & ((ratio >= 0.99) | (size * rate**left * rate / (1 - rate) > 1))
    return torch.where(newton, slow | (left == 0), iterations >= _MAX_SECANT_ITERATIONS)


def _stage_start(equations: StageEquations, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first guess, the explicit part and τ of the stages that the samples are at."""
    guess, explicit = torch.bmm(equations.sums[equations.sample, stage[:, 0]], equations.rows).unbind(1)
    return guess, explicit, equations.times.gather(1, stage)


class Stages:
    """The stages of one step after another.

    A sample whose stage has converged goes to its next stage at once. It waits for the others only at the end of the
    step.

    Args:
        x: initial states, (N, d).
        span: length of the solve.
        tol: tolerance of a step.
        iterate: does one iteration.
    """

    def __init__(self, x: Tensor, span: Tensor, tol: Tolerance, iterate: Iteration) -> None:
        self._tol, self._iterate = tol, iterate
        self._eps = torch.finfo(x.dtype).eps
        self._error_share = max(_ERROR_SHARE, 2 * self._eps / tol.rtol)
        self._nodes = torch.tensor(tableau.NODES, dtype=torch.float64, device=x.device)
        explicit_sums, end_sums = tableau.combinations()
        self._explicit_sums, self._end_sums = explicit_sums.to(x), end_sums.to(x)
        # stages 3 and 4 of the last step, the start of this one, its five stages, and h F at its start
        self._rows = x.new_zeros(len(x), 9, x.shape[1])
        self._rows[:, :3] = x[:, None]
        self._times = span * span.new_tensor([-2 * _LONG_AGO, -_LONG_AGO, *[0.0] * 6]).repeat(len(x), 1)
        self._rate = x.new_full((len(x), 1), _UNKNOWN_RATE)
        self._sample = torch.arange(len(x), device=x.device)
        self._secants: SecantPairs | None = SecantPairs.empty(x)
        self._jacobians = Jacobians(x)

    @property
    def start_state(self) -> Tensor:
        """The state at the start of the step, (N, d)."""
        return self._rows[:, 2]

    @property
    def start_slope(self) -> Tensor:
        """The slope h F at the start of the step, (N, d)."""
        return self._rows[:, 8]

    @property
    def end_state(self) -> Tensor:
        """The state at the end of the step, which is its last stage, (N, d)."""
        return self._rows[:, 7]

    def converged_stages(self) -> tuple[Tensor, ...]:
        """A copy of the step's stages, five of (N, d)."""
        return self._rows[:, 3:8].clone().unbind(1)

    def needs_jacobian(self, active: Tensor) -> Tensor:
        """The samples among the ``active`` ones, (N, 1), that need ∂F/∂x before their next step."""
        return self._jacobians.wanted(active)

    def set_jacobian(self, jacobian: Tensor, samples: Tensor) -> None:
        """Give some samples, (N, 1), their ∂F/∂x out of ``jacobian``, (N, d, d)."""
        self._jacobians.update(jacobian, samples)
        self._rate = self._rate.masked_fill(samples, _UNKNOWN_RATE)
        if self._jacobians.all_known:
            self._secants = None

    def end(self, moved: Tensor) -> None:
        """Move some samples, (N, 1), to the end of their step, and keep what predicts the stages of the next one."""
        self._times[:, :3] = torch.where(moved, self._times[:, 5:], self._times[:, :3])
        self._rows[:, :3] = torch.where(moved[:, :, None], self._rows[:, 5:8], self._rows[:, :3])
        self._jacobians.move(moved)

    def error_and_slope(self) -> tuple[Tensor, Tensor]:
        """The error of the step and h F at its end, (N, d)."""
        with self._without_autocast():
            error, h_slope = torch.matmul(self._end_sums, self._rows).unbind(1)
        return error, h_slope

    def solve(self, field: Field, ends: Tensor, h: Tensor, slope: Tensor, lam: Tensor, solving: Tensor) -> Solved:
        """Solve all stages of a step.

        Args:
            field: gives N.
            ends: τ of the step's ends, (N, 2).
            h: its signed length, (N, 1), in x's dtype.
            slope: F at its start, (N, d).
            lam: λ, (N, 1) or (N, d).
            solving: the samples that take part, (N, 1).

        Returns:
            How they came out.
        """
        equations = self._equations(ends, h, slope, lam, solving)
        x, stage = self.start_state, torch.zeros_like(solving, dtype=torch.long)
        with self._without_autocast():
            guess, explicit, tau = _stage_start(equations, stage)
        u = torch.where(solving, guess, x)
        state = StageState(
            u=u,
            explicit=explicit,
            tau=tau,
            last_u=torch.zeros_like(u),
            last_n=torch.zeros_like(u),  # not the same tensor: a compiled function would depend on that
            last_size=torch.ones_like(h),
            rate=self._rate**0.8,  # a rate measured with another step is trusted less
            iterations=torch.zeros_like(stage),
            stage=stage,
            solving=solving,
            converged=solving.clone(),
            finite=torch.ones_like(solving),
        )
        calls = torch.zeros_like(h)
        while bool(state.solving.any()):
            calls = calls + state.solving
            n = field(state.tau, state.u, state.solving)
            with self._without_autocast():
                state = self._iterate(equations, self._secants, state, n)
        self._forget(solving & ~state.converged)
        self._rate = torch.where(state.converged, state.rate, self._rate)
        again = self._jacobians.record(calls, state.converged, state.finite)
        return Solved(state.converged, again, state.finite)

    def _forget(self, failed: Tensor) -> None:
        """Keep nothing of iterates that led nowhere."""
        self._rate = self._rate.masked_fill(failed, _UNKNOWN_RATE)
        if self._secants is not None:
            self._secants.forget(failed)

    def _equations(self, ends: Tensor, h: Tensor, slope: Tensor, lam: Tensor, solving: Tensor) -> StageEquations:
        """The equations of the step between ``ends``."""
        self._times[:, 2:] = torch.lerp(ends[:, :1], ends[:, 1:], self._nodes)
        self._rows[:, 3:8] = 0.0
        self._rows[:, 8] = h * slope
        x = self.start_state
        guess_sums = tableau.predictors(self._times).to(x.dtype)
        sums = torch.stack((guess_sums, self._explicit_sums.expand_as(guess_sums)), 2)
        weight, g = tableau.stage_coefficients(lam, h)
        root, allowed = x.shape[1] ** 0.5, self._tol.rtol * x.abs() + self._tol.atol
        rounding = 4 * self._eps * x.abs() / weight
        with self._without_autocast():
            inverse = self._jacobians.inverse(h, solving)
        return StageEquations(
            rows=self._rows,
            sums=sums,
            times=self._times[:, 3:],
            weight=weight,
            g=g,
            unit=1 / (root * self._error_share * allowed),
            residual_unit=1 / (root * (_RESIDUAL_SHARE * allowed + rounding)),
            sample=self._sample,
            newton=self._jacobians.known,
            inverse=inverse,
        )

    def _without_autocast(self) -> torch.autocast:
        """Autocast is for f only: the products of the solver keep the state's dtype."""
        return torch.autocast(self._rows.device.type, enabled=False)
