"""One iteration for the stages of an implicit step. Every sample may be at a different stage."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.implicit.quasi_newton import SecantPairs

__all__ = ["Iteration", "StageEquations", "StageState", "iterate", "scaled_residual", "stage_start"]

_MAX_SECANT_ITERATIONS = 12
"""Of a stage. A shorter step costs less than more iterations."""

_MAX_NEWTON_ITERATIONS = 7
"""Of a stage. A new Jacobian or a shorter step costs less than more iterations."""

_FASTEST = 0.01
"""The least rate of convergence. A rate that is measured over small corrections may not hold for a large one."""


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
    """The samples that iterate by Newton's method, by a Jacobian or by GMRES, (N, 1). The others use secants."""
    inverse: Tensor | None
    """`Jacobians.inverse`. None where no sample has a Jacobian."""


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


Iteration = Callable[[StageEquations, SecantPairs | None, StageState, Tensor, Tensor | None], StageState]
"""`iterate`, or its compiled form."""


def iterate(
    equations: StageEquations,
    secants: SecantPairs | None,
    state: StageState,
    n: Tensor,
    correction: Tensor | None,
) -> StageState:
    """One iteration. A sample whose stage has converged starts with its next stage.

    Args:
        equations: the equations of the step.
        secants: the pairs kept so far; None where all samples iterate by Newton's method.
        state: where the samples are.
        n: N at the iterates, (N, d).
        correction: `KrylovSpaces.corrections`.

    Returns:
        Where the samples are afterwards.
    """
    u, solving, stage, newton = state.u, state.solving, state.stage, equations.newton
    iterations = state.iterations + 1
    again = solving & (iterations > 1)
    scaled = scaled_residual(equations, state, n)
    residual = scaled / equations.weight
    move = scaled
    if secants is not None:
        move = secants.correction(u - state.last_u, n - state.last_n, again & ~newton, scaled, equations.g)
    if correction is not None:
        move = torch.where(newton, correction, move)
    if equations.inverse is not None:
        move = torch.where(newton, torch.bmm(residual[:, None], equations.inverse.mT)[:, 0], move)
    size = torch.linalg.vector_norm(move * equations.unit, dim=1, keepdim=True)
    ratio = (size / state.last_size).nan_to_num(0.99, 0.99)
    measured = torch.where(newton, torch.maximum(0.3 * state.rate, ratio), ratio)
    rate = torch.where(again, measured, state.rate).clamp(_FASTEST, 0.99)
    new = torch.where(solving, u + move, u)
    equations.rows[equations.sample, stage[:, 0] + 3] = new
    solved = solving & _is_solved(equations, residual, size, rate)
    failed = solving & ~solved & (_is_hopeless(newton, iterations, size, ratio, rate) | ~torch.isfinite(size))
    # an iterate that is not finite says nothing about f
    nonfinite = solving & ~torch.isfinite(n.sum(1, keepdim=True)) & torch.isfinite(u.sum(1, keepdim=True))
    onward = solved & (stage < 4)
    stage = stage + onward
    guess, explicit, tau = stage_start(equations, stage)
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


def scaled_residual(equations: StageEquations, state: StageState, n: Tensor) -> Tensor:
    """The residual of the stage equation, w base + g N(u) − u, (N, d), at the iterates, where N is ``n``."""
    return torch.addcmul(torch.addcmul(-state.u, equations.weight, state.explicit), equations.g, n)


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


def stage_start(equations: StageEquations, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first guess, the explicit part and τ of the stages that the samples are at."""
    guess, explicit = torch.bmm(equations.sums[equations.sample, stage[:, 0]], equations.rows).unbind(1)
    return guess, explicit, equations.times.gather(1, stage)
