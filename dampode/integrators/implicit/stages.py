"""The stages of an implicit step, every sample at a stage of its own."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.quasi_newton import Secants
from dampode.integrators.step_control import Tolerance

_ITERATIONS = 12  # of a stage, at most: a shorter step costs less than more of them
_SHARE = 0.02  # of the tolerance that the error of a stage may take
_LONG_AGO = 1e9  # in spans: where the history of a first step lies, so that it predicts no change

Field = Callable[[Tensor, Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What does not change while the stages of a step are solved."""

    rows: Tensor
    """What `tableau.combinations` are of, (N, 9, d); a stage's is written in place, 0 before."""
    sums: Tensor
    """Which of the rows are first guess and explicit part of a stage, (N, 5, 2, 9)."""
    times: Tensor
    """τ of the stages, (N, 5)."""
    weight: Tensor
    g: Tensor
    """Of `tableau.damped`."""
    unit: Tensor
    """What a correction is multiplied by before its norm: 1 is as much as a stage may be off, (N, d)."""


class Inner(NamedTuple):
    """Where the stages of every sample stand. Values per sample are (N, 1)."""

    u: Tensor
    """The iterate, (N, d)."""
    base: Tensor
    """The explicit part, (N, d)."""
    tau: Tensor
    last_u: Tensor
    last_n: Tensor
    """The last iterate and N there, (N, d)."""
    last_size: Tensor
    """Of the last correction."""
    rate: Tensor
    """Of convergence."""
    tries: Tensor
    """Calls of f at this stage."""
    stage: Tensor
    """How many are solved, at most 4."""
    busy: Tensor
    """Whether there are stages to solve."""
    good: Tensor
    """Whether all have converged."""


Iterating = Callable[[Step, Secants, Inner, Tensor], Inner]
"""`iterate`, or a compiled form of it."""


def iterate(step: Step, secants: Secants, inner: Inner, n: Tensor) -> Inner:
    """A quasi-Newton iteration from N at the iterates, (N, d); where a stage has converged, the next one is opened."""
    u, busy, stage, tries = inner.u, inner.busy, inner.stage, inner.tries + 1
    again = busy & (tries > 1)
    residual = torch.addcmul(torch.addcmul(-u, step.weight, inner.base), step.g, n)
    move = secants.solve(u - inner.last_u, n - inner.last_n, again, residual, step.g)
    size = torch.linalg.vector_norm(move * step.unit, dim=1, keepdim=True)
    rate = torch.where(again, (size / inner.last_size).nan_to_num(0.99, 0.99).clamp(1e-3, 0.99), inner.rate)
    new = torch.where(busy, u + move, u)
    step.rows[secants.sample, stage[:, 0] + 3] = new
    solved = busy & (size <= (1 / rate - 1).clamp(min=1e-3))
    hopeless = busy & ~solved & ((tries >= _ITERATIONS) | ~torch.isfinite(size))
    onward = solved & (stage < 4)
    stage = stage + onward
    guess, base, tau = opened(step, secants.sample, stage)
    return Inner(
        torch.where(onward, guess, new),
        base,
        tau,
        u,
        n,
        size,
        rate,
        torch.where(onward, 0, tries),
        stage,
        onward | (busy & ~solved & ~hopeless),
        inner.good & ~hopeless,
    )


def opened(step: Step, sample: Tensor, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the stages that the samples are at: a first guess, the explicit part, and their τ."""
    guess, base = torch.bmm(step.sums[sample, stage[:, 0]], step.rows).unbind(1)
    return guess, base, step.times.gather(1, stage)


class Stages:
    """The stages of a step.

    A sample whose stage has converged goes on to its next one at once: it waits for the others at the step's end only.

    Args:
        x: initial states, (N, d).
        span: length of the solve.
        tol: tolerance of a step.
        iterate: what makes an iteration.
    """

    def __init__(self, x: Tensor, span: Tensor, tol: Tolerance, iterate: Iterating) -> None:
        self._tol, self._iterate = tol, iterate
        self._share = max(_SHARE, 2 * torch.finfo(x.dtype).eps / tol.rtol)
        self._nodes = torch.tensor(tableau.NODES, dtype=torch.float64, device=x.device)
        bases, ends = tableau.combinations()
        self._bases, self._ends = bases.to(x), ends.to(x)
        self.rows = x.new_zeros(len(x), 9, x.shape[1])
        """The last step's stages 3 and 4, this one's start, its five stages and h F at the start, (N, 9, d)."""
        self.rows[:, :3] = x[:, None]
        self._times = span * span.new_tensor([-2 * _LONG_AGO, -_LONG_AGO, *[0.0] * 6]).repeat(len(x), 1)
        self._rate = x.new_full((len(x), 1), 0.5)
        self._secants = Secants.none(x)

    def end(self, moved: Tensor) -> None:
        """Move samples, (N, 1), to the end of their step, and keep what predicts the next one's stages."""
        self._times[:, :3] = torch.where(moved, self._times[:, 5:], self._times[:, :3])
        self.rows[:, :3] = torch.where(moved[:, :, None], self.rows[:, 5:8], self.rows[:, :3])

    def error_and_slope(self) -> tuple[Tensor, Tensor]:
        """The step's error and h F at its end, (N, d)."""
        with self._unrounded():
            error, slope = torch.matmul(self._ends, self.rows).unbind(1)
        return error, slope

    def _unrounded(self) -> torch.autocast:
        """Without autocast, which is f's own matter: the products of the solver keep the state's dtype."""
        return torch.autocast(self.rows.device.type, enabled=False)

    def solve(self, field: Field, ends: Tensor, h: Tensor, slope: Tensor, lam: Tensor, busy: Tensor) -> Tensor:
        """Solve all stages of a step.

        Args:
            field: (τ, u, busy) -> N, (N, d).
            ends: τ of the step's ends, (N, 2).
            h: its signed length, (N, 1), in x's dtype.
            slope: F at its start, (N, d).
            lam: λ, (N, 1) or (N, d).
            busy: the samples that take part, (N, 1).

        Returns:
            Whether all five stages converged, (N, 1).
        """
        self._times[:, 2:] = torch.lerp(ends[:, :1], ends[:, 1:], self._nodes)
        self.rows[:, 3:8] = 0.0
        self.rows[:, 8] = h * slope
        x = self.rows[:, 2]
        guesses = tableau.predictors(self._times).to(x.dtype)
        sums = torch.stack((guesses, self._bases.expand_as(guesses)), 2)
        unit = 1 / (self._share * x.shape[1] ** 0.5 * (self._tol.rtol * x.abs() + self._tol.atol))
        step = Step(self.rows, sums, self._times[:, 3:], *tableau.damped(lam, h), unit)
        stage = torch.zeros_like(busy, dtype=torch.long)
        with self._unrounded():
            guess, base, tau = opened(step, self._secants.sample, stage)
        u = torch.where(busy, guess, x)
        last_u, last_n = torch.zeros_like(u), torch.zeros_like(u)  # of their own: a compiled form is of no aliases
        tries, good = torch.zeros_like(stage), busy.clone()
        inner = Inner(u, base, tau, last_u, last_n, torch.ones_like(h), self._rate, tries, stage, busy, good)
        while bool(inner.busy.any()):
            n = field(inner.tau, inner.u, inner.busy)
            with self._unrounded():
                inner = self._iterate(step, self._secants, inner, n)
        self._rate = inner.rate
        return inner.good
