"""One step of the adaptive exponential method for a whole batch: tensors in, tensors out, no value read."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.exponential.error_estimate import change_of_curve, error_estimate
from dampode.integrators.exponential.stiffness import is_creeping
from dampode.integrators.exponential_rk import KrogstadStep, krogstad_step
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import MIN_LOG_RATIO, log_error_ratio, step_factor
from dampode.integrators.stiff_steps import BOUND, relative_change
from dampode.integrators.time_axis import TimeAxis
from dampode.integrators.tolerance import Tolerance

__all__ = ["SampleState", "StepFunction", "TriedStep", "initial_state", "try_step"]


SMALL_RATIO = 0.01
"""Where the error is a smaller part of the tolerance, the stages differ by rounding and say nothing about stiffness."""


class SampleState(NamedTuple):
    """Where every sample is. Values per sample are (N, 1, ..., 1); τ is float64."""

    x: Tensor
    """The state, (N, *S)."""
    n1: Tensor
    """N there, (N, *S)."""
    tau: Tensor
    last_curve: Tensor
    """θ² coefficient of N over the last accepted step, (N, *S)."""
    last_h: Tensor
    """The length > 0 of the last accepted step, in x's dtype."""
    last_log_ratio: Tensor
    """The logarithm of its error ratio."""
    crept_error: Tensor
    """The sum of the error ratios of all steps in which the state crept, see `is_creeping`."""


class TriedStep(NamedTuple):
    """A step, accepted or not. A sample whose step has length 0 does not change, to the last bit."""

    krogstad: KrogstadStep
    splitting: Splitting
    """The splitting at x⁺."""
    state: SampleState
    """Where a sample is if it accepts the step."""
    h: Tensor
    """The signed length in x's dtype."""
    next_h: Tensor
    """The length to try next."""
    ok: Tensor
    """Whether the error is within the tolerance."""
    finite: Tensor
    """Whether the error is a finite number."""
    stuck: Tensor
    """Whether the step is rejected and no shorter one would advance t, or λ is negative or NaN at x⁺."""
    stiff: Tensor
    """Whether the step is accepted, and stability and not accuracy bounded its length."""
    running: Tensor
    """Whether the next stop, or the last time, is not reached yet."""
    counts: Tensor
    """How many samples are ok, finite, stuck, running, (4,) int64."""


StepFunction = Callable[[Splitting, SampleState, Tensor, TimeAxis, Tolerance], TriedStep]
"""`try_step`, or its compiled form."""


def initial_state(x: Tensor, n1: Tensor, tau: Tensor) -> SampleState:
    """The samples before their first step.

    The last step counts as infinitely short, so that the whole curvature of N counts as error.
    """
    per_sample = torch.zeros(tau.shape, dtype=x.dtype.to_real(), device=x.device)
    tiny = torch.finfo(x.dtype).tiny
    return SampleState(x, n1, tau, torch.zeros_like(x), per_sample + tiny, per_sample, torch.zeros_like(per_sample))


def try_step(splitting: Splitting, state: SampleState, h: Tensor, axis: TimeAxis, tol: Tolerance) -> TriedStep:
    """A step of length h for every sample, with its error and the length to try next. It never passes a stop.

    Args:
        splitting: the splitting at the state.
        state: where the samples are.
        h: lengths >= 0, (N, 1, ..., 1) float64; 0 where a sample is done or has failed.
        axis: the time axis.
        tol: tolerance of a step.

    Returns:
        The step. Gradients flow through the state and N, not through the length and the error.
    """
    dtype = state.last_h.dtype
    with torch.no_grad():
        end = torch.minimum(state.tau + h, axis.stop)
        h = end - state.tau
        times = axis.time(torch.add(state.tau, h, alpha=0.5), dtype), axis.time(end, dtype)
        length = h.to(dtype)
        signed = length * axis.sign
    step = krogstad_step(splitting, state.x, state.n1, times, signed)
    after = splitting.at(times[1], step.x)
    n1 = after.nonlinear(times[1], step.x)
    with torch.no_grad():
        n5 = n1 if after is splitting else torch.addcmul(n1, splitting.lam - after.lam, step.x)
        change = change_of_curve(step.curve, length, state.last_curve, state.last_h)
        error = error_estimate(step, n5, change, splitting.lam, signed)
        size = torch.maximum(state.x.abs(), step.x.abs())
        ratio = tol.ratio(error, size)
        ok, finite = ratio <= 1, ratio < torch.inf
        log_ratio = log_error_ratio(ratio)
        growth = relative_change(n5 - step.n4, step.x - step.u4).reshape(h.shape)
        stiff = ok & (h * growth > BOUND) & (ratio > SMALL_RATIO)
        next_h = h * step_factor(log_ratio, ok, state.last_log_ratio)
        stuck = (next_h <= axis.shortest_step(state.tau)) > ok
        if after is not splitting:
            stuck = stuck | (ok & after.has_negative_damping(step.x))
        creeping = is_creeping(step, state.x, n5, splitting.lam, length, size, tol)
        crept_error = state.crept_error + torch.where(ok & creeping, ratio, 0.0)
        tau = torch.where(ok, end, state.tau)
        running = tau < axis.stop
        counts = torch.stack((ok, finite, stuck, running)).flatten(1).sum(1)
        last_h, last_log_ratio = length.clamp(min=torch.finfo(dtype).tiny), log_ratio.clamp_(min=MIN_LOG_RATIO)
    moved = SampleState(step.x, n1, tau, step.curve, last_h, last_log_ratio, crept_error)
    return TriedStep(step, after, moved, signed, next_h, ok, finite, stuck, stiff, running, counts)
