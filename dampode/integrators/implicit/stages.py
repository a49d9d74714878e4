"""The stages of an implicit step, solved for every sample by itself."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.iteration import Iteration, StageEquations, StageState, scaled_residual, stage_start
from dampode.integrators.implicit.newton import Jacobians
from dampode.integrators.implicit.newton_krylov import KrylovSpaces
from dampode.integrators.implicit.quasi_newton import SecantPairs
from dampode.integrators.tolerance import Tolerance

__all__ = ["Solved", "Stages"]

_ERROR_SHARE = 0.05
"""The share of the tolerance that the error of a stage may take."""

_RESIDUAL_SHARE = 0.3
"""The share of the tolerance that the residual of a stage may take. Secants may miss a direction in which the equation
is nearly singular: a small correction is then no sign of a small error, but a small residual is."""

_UNKNOWN_RATE = 0.5
"""The rate of convergence before any is measured."""

_LONG_AGO = 1e9
"""In spans: the step before a first one was so long that it predicts no change."""

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(τ, u, solving) -> N, (N, d); the call counts for the samples that are ``solving``."""


class Solved(NamedTuple):
    """How the stages of a step came out. Values per sample are (N, 1)."""

    converged: Tensor
    """Whether all five stages converged."""
    again: Tensor
    """Whether a step that did not converge should be tried at the same length, with a new Jacobian."""
    finite: Tensor
    """Whether f was finite."""


class Stages:
    """The stages of one step after another.

    A sample whose stage has converged goes to its next stage at once. It waits for the others only at the end of the
    step.

    Args:
        x: initial states, (N, d).
        span: length of the solve, () or (N, 1).
        tol: tolerance of a step.
        iterate: does one iteration.
    """

    def __init__(self, x: Tensor, span: Tensor, tol: Tolerance, iterate: Iteration) -> None:
        self._tol, self._iterate = tol, iterate
        self._eps = torch.finfo(x.dtype).eps
        self._error_share = max(_ERROR_SHARE, 2 * self._eps / tol.smallest_rtol)
        self._nodes = torch.tensor(tableau.NODES, dtype=torch.float64, device=x.device)
        explicit_sums, end_sums = tableau.combinations()
        self._explicit_sums, self._end_sums = explicit_sums.to(x), end_sums.to(x)
        # x and h F at the start of the last step, the start of this one, its five stages, and h F at its start
        self._rows = x.new_zeros(len(x), 9, x.shape[1])
        self._rows[:, 0] = self._rows[:, 2] = x
        self._long_ago = (_LONG_AGO * span).expand(len(x), 1)
        self._last_length = self._long_ago.clone()
        self._length = self._long_ago
        self._rate = x.new_full((len(x), 1), _UNKNOWN_RATE)
        self._sample = torch.arange(len(x), device=x.device)
        self._secants: SecantPairs | None = SecantPairs.empty(x)
        self._jacobians = Jacobians(x)
        increment = max(1.0, self._eps**0.5 / tol.smallest_rtol) / self._error_share
        self._spaces = KrylovSpaces(x, not self._jacobians.possible, increment)

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

    def restart(self, x: Tensor, samples: Tensor) -> None:
        """Let some samples, (N, 1), start anew from the states x, (N, d)."""
        start = torch.stack((x, torch.zeros_like(x), x), 1)
        self._rows[:, :3] = torch.where(samples[:, :, None], start, self._rows[:, :3])
        self._last_length = torch.where(samples, self._long_ago, self._last_length)
        self._forget(samples)

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
        self._last_length = torch.where(moved, self._length, self._last_length)
        self._rows[:, :3] = torch.where(moved[:, :, None], self._rows[:, (2, 8, 7)], self._rows[:, :3])
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
            guess, explicit, tau = stage_start(equations, stage)
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
            correction = None
            if self._spaces.in_use:
                residual, nonlinear = scaled_residual(equations, state, n), partial(field, state.tau)
                correction = self._spaces.corrections(nonlinear, state.u, n, residual, state.solving)
            with self._without_autocast():
                state = self._iterate(equations, self._secants, state, n, correction)
        self._forget(solving & ~state.converged)
        self._rate = torch.where(state.converged, state.rate, self._rate)
        again = self._jacobians.record(calls, state.converged, state.finite)
        again = again | self._spaces.record(calls, state.converged, state.rate)
        return Solved(state.converged, again, state.finite)

    def _forget(self, failed: Tensor) -> None:
        """Keep nothing of iterates that led nowhere."""
        self._rate = self._rate.masked_fill(failed, _UNKNOWN_RATE)
        if self._secants is not None:
            self._secants.forget(failed)

    def _equations(self, ends: Tensor, h: Tensor, slope: Tensor, lam: Tensor, solving: Tensor) -> StageEquations:
        """The equations of the step between ``ends``."""
        times = torch.lerp(ends[:, :1], ends[:, 1:], self._nodes[1:])
        self._length = torch.where(solving, ends[:, 1:] - ends[:, :1], 1.0)
        self._rows[:, 3:8] = 0.0
        self._rows[:, 8] = h * slope
        x = self.start_state
        newton = self._jacobians.known | self._spaces.used
        guess_sums = tableau.predictors(self._last_length / self._length, newton).to(x.dtype)
        sums = torch.stack((guess_sums, self._explicit_sums.expand_as(guess_sums)), 2)
        weight, g = tableau.stage_coefficients(lam, h)
        root, allowed = x.shape[1] ** 0.5, self._tol.allowed(x.abs())
        rounding = 4 * self._eps * x.abs() / weight
        unit = 1 / (root * self._error_share * allowed)
        with self._without_autocast():
            inverse = self._jacobians.inverse(h, solving)
            self._spaces.begin_step(unit, g)
        return StageEquations(
            rows=self._rows,
            sums=sums,
            times=times,
            weight=weight,
            g=g,
            unit=unit,
            residual_unit=1 / (root * (_RESIDUAL_SHARE * allowed + rounding)),
            sample=self._sample,
            newton=newton,
            inverse=inverse,
        )

    def _without_autocast(self) -> torch.autocast:
        """Autocast is for f only: the products of the solver keep the state's dtype."""
        return torch.autocast(self._rows.device.type, enabled=False)
