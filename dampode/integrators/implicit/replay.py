"""The accepted steps of an implicit solve, taken again with gradients: each stage by the implicit function theorem."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.call_counter import CallCounter
from dampode.integrators.dense_output import interpolant_between
from dampode.integrators.dense_solution import Piece
from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.gradients import with_implicit_gradient
from dampode.integrators.output_times import scatter_states
from dampode.integrators.shifts import per_sample
from dampode.integrators.splitting import Splitting
from dampode.integrators.stops import Restart
from dampode.integrators.time_axis import TimeAxis

__all__ = ["AcceptedStep", "replay"]


class AcceptedStep(NamedTuple):
    """A step that at least one sample accepted. Values per sample are (N, 1, ..., 1) float64."""

    h: Tensor
    """Its length; 0 for the other samples."""
    begin: Tensor
    """τ before the step."""
    end: Tensor
    """τ after it."""
    stages: list[Tensor]
    """The converged stages, five of (N, *S)."""
    axis: TimeAxis
    """The time axis, with the stops as they were at this step."""


def replay(
    splitting: Splitting,
    x: Tensor,
    slope: Tensor,
    inner_tau: Tensor,
    steps: list[AcceptedStep | Restart],
    rtol: float,
    calls: CallCounter,
    pieces: list[Piece] | None,
) -> tuple[Tensor, Tensor]:
    """The states at the output times with their derivatives.

    Args:
        splitting: the splitting at the initial state, with its graph.
        x: initial state, (N, *S).
        slope: F(x, t) there, with its graph, (N, *S).
        inner_tau: τ of the output times between the first and the last one, (T − 2,) or (N, T − 2) float64.
        steps: the accepted steps, and the restarts between them.
        rtol: relative tolerance of the linear solves of the backward pass.
        calls: counts the calls of f.
        pieces: takes the states inside the steps; None keeps none.

    Returns:
        The states at the inner times, (T − 2, N, *S), NaN at times that no step reached, and the last state, (N, *S).
    """
    tau = inner_tau.expand(len(x), -1)
    indices, states = [tau.new_empty(0, dtype=torch.long)], [x.new_empty(0, *x.shape[1:])]
    for step in steps:
        if isinstance(step, Restart):
            calls.active = step.samples
            x, samples, tau_now = step.change(x), per_sample(step.samples, x), per_sample(step.tau, x)
            t = step.axis.shaped(tuple(tau_now.shape)).time(tau_now, x.dtype)
            splitting = splitting.at(t, x)
            slope = torch.where(samples, splitting.nonlinear(t, x) - splitting.lam * x, slope)
            continue
        h, begin, end, stages, axis = step
        signed, ok = (axis.sign * h).to(x.dtype), h > 0
        calls.active = ok.reshape(-1)
        (weight, g), slopes, u = tableau.stage_coefficients(splitting.lam, signed), [signed * slope], x
        fixed, lam_change = splitting.with_constant_damping()
        for node, stage in zip(tableau.NODES[1:], stages, strict=True):
            explicit, t = tableau.explicit_part(x, slopes), axis.time(torch.lerp(begin, end, node), x.dtype)
            value = torch.where(ok, stage, x.detach())
            u = with_implicit_gradient(partial(fixed.nonlinear, t), lam_change, weight * explicit, g, value, rtol)
            slopes.append(tableau.stage_slope(u, explicit))
        since = tau - begin.reshape(-1, 1)
        sample, output = ((since >= 0) & (tau < end.reshape(-1, 1))).nonzero(as_tuple=True)
        theta = (since[sample, output].reshape(-1, *[1] * (x.ndim - 1)) / h[sample]).to(x.dtype)
        indices.append(output * len(x) + sample)
        states.append(tableau.hermite(theta, *(value[sample] for value in (x, slopes[0], u, slopes[-1]))))
        end_slope = torch.where(ok, slopes[-1] / torch.where(ok, signed, 1.0), slope)
        if pieces is not None:
            after = torch.where(ok, u, x)
            inside = interpolant_between(x, slope, after, end_slope, torch.zeros_like(signed), signed)
            pieces.append((inside, end.reshape(-1)))
        slope = end_slope
        x = torch.where(ok, u, x)
        splitting = splitting.at(axis.time(end, x.dtype), x)
    return scatter_states(torch.cat(indices), torch.cat(states), tau.shape[1], x), x
