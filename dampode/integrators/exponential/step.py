"""One attempted step of the adaptive exponential pair for a whole batch: tensors in, tensors out, no host sync."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.integrators.clock import Clock
from dampode.integrators.exponential_rk import KrogstadStep, krogstad_step
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import (
    FLOOR,
    History,
    Tolerance,
    change_of_curve,
    cubic,
    error_estimate,
    logarithm,
    step_factor,
)


class Place(NamedTuple):
    """Where every sample stands. Values per sample are (N, 1, ..., 1); times are float64."""

    x: Tensor
    """The state, (N, *S)."""
    n1: Tensor
    """N there, (N, *S)."""
    tau: Tensor
    past: History


class Attempt(NamedTuple):
    """What an attempt gave. Samples whose length was 0 stand where they stood, to the last bit."""

    step: KrogstadStep
    split: Splitting
    """The field split at x⁺."""
    n1: Tensor
    """N at x⁺ in that splitting, (N, *S)."""
    past: History
    """The attempt as the last step, for the samples that accept it."""
    tau: Tensor
    """Time after the attempt; unchanged where it is rejected."""
    h: Tensor
    """Signed length in x's dtype."""
    wished: Tensor
    """Length to try next."""
    ok: Tensor
    """Whether the error is within the tolerance."""
    finite: Tensor
    """Whether the error is a number."""
    stuck: Tensor
    """Whether it is rejected and no shorter step would advance t, or λ is negative or NaN at x⁺."""
    running: Tensor
    """Whether the last time is still ahead."""
    counts: Tensor
    """How many samples are ok, finite, stuck, running, (4,) int64."""


def attempt(split: Splitting, place: Place, h: Tensor, clock: Clock, tol: Tolerance) -> Attempt:
    """A step of length h for every sample, cut at the last time, with its error and the length to try next.

    Args:
        split: the field split at the state.
        place: where the samples stand.
        h: lengths >= 0, (N, 1, ..., 1) float64; 0 where a sample is done or has failed.
        clock: the time axis.
        tol: tolerance of a step.

    Returns:
        The attempt. Gradients flow through the step and N, not through its length and its error.
    """
    dtype = place.x.dtype
    with torch.no_grad():
        end = torch.minimum(place.tau + h, clock.span)
        h = end - place.tau
        times = clock.time(torch.add(place.tau, h, alpha=0.5), dtype), clock.time(end, dtype)
        length = h.to(dtype)
        signed = length * clock.sign
    step = krogstad_step(split, place.x, place.n1, times, signed)
    after = split.at(step.x)
    n1 = after(times[1], step.x)
    with torch.no_grad():
        n5 = n1 if after is split else torch.addcmul(n1, split.lam - after.lam, step.x)
        change = change_of_curve(step.curve, length, place.past)
        error = error_estimate(step, n5, change, split.lam, signed)
        ratio = tol.ratio(error, torch.maximum(place.x.abs(), step.x.abs()))
        ok, finite = ratio <= 1, ratio < torch.inf
        log_ratio = logarithm(ratio)
        wished = h * step_factor(log_ratio, ok, place.past.log_ratio)
        stuck = (wished <= clock.shortest) > ok
        if after is not split:
            stuck = stuck | (ok & after.undamped(step.x))
        tau = torch.where(ok, end, place.tau)
        running = tau < clock.span
        counts = torch.stack((ok, finite, stuck, running)).flatten(1).sum(1)
        past = History(step.curve, length.clamp(min=torch.finfo(dtype).tiny), log_ratio.clamp_(min=FLOOR))
    return Attempt(step, after, n1, past, tau, signed, wished, ok, finite, stuck, running, counts)


def bend(made: Attempt, place: Place) -> Tensor:
    """D = h³ N‴ / 6 over an attempt, for dense output, (N, *S)."""
    return cubic(change_of_curve(made.step.curve, made.past.h, place.past))
