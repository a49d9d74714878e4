"""One step of the exponential Adams method for a whole batch: tensors in, tensors out, no value read."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import has_autocast
from dampode._precision import rounds_products
from dampode.integrators.exponential.moments import moments
from dampode.integrators.splitting import Splitting
from dampode.integrators.tolerance import Tolerance, norm_of_rows

__all__ = [
    "History",
    "Plan",
    "StepFunction",
    "StepWeights",
    "TriedStep",
    "first_history",
    "moved_history",
    "restarted_history",
    "step_weights",
    "try_step",
    "values_at",
]


class StepWeights(NamedTuple):
    """The weights of a step but those of the past. Each broadcasts to x, (N, 1, ..., 1) unless λ varies in samples."""

    decay: Tensor
    """e^z."""
    phi1: Tensor
    """hφ_1(z)."""
    corrector: Tensor
    """w = h g_k / q_k(1)."""


class Plan(NamedTuple):
    """What the host says about a step, in x's dtype."""

    time: Tensor
    """The time after the step, (N, 1, ..., 1)."""
    h: Tensor
    """The signed length, (N, 1, ..., 1)."""
    past: Tensor
    """What the values in the slots are multiplied by, (N, 4 or 5, R): for the predictor, if ``weights`` are given, and
    for the differences that the step reports, which want the polynomial's value at the end of the step."""
    weights: StepWeights | None
    """None if they are computed on the device, because λ varies inside samples or wants a gradient."""
    basis: Tensor | None
    """In that case the weights as combinations of the moments, (N, R + 1, P)."""
    second: Tensor | None
    """The samples that make their second evaluation, (N, 1, ..., 1); None if there are none."""
    corrects_again: Tensor | None
    """Whether the state is corrected with it, too."""


class History(NamedTuple):
    """Where every sample is."""

    x: Tensor
    """The state, (N, *S)."""
    values: Tensor
    """The last values of N, (N, R, *S); where λ varies, those of dx/dt."""
    states: Tensor | None
    """Where λ varies: the states at which they were taken, (N, R, *S)."""
    corrected: Tensor
    """The state that the last step found, for samples with a second evaluation, (N, *S)."""
    value: Tensor
    """N in the last step, for the same, (N, *S)."""


class TriedStep(NamedTuple):
    """A step, accepted or not. A sample whose step has length 0 does not change, to the last bit."""

    x: Tensor
    """x⁺, (N, *S)."""
    corrected: Tensor
    """The corrected state, (N, *S): x⁺ but where the second evaluation does not correct."""
    state: Tensor
    """The state at which N was evaluated, (N, *S)."""
    value: Tensor
    """N there, (N, *S)."""
    gap: Tensor
    """Δ_k, (N, *S)."""
    past: Tensor
    """The values of N in the slots for this step's λ_n, (N, R, *S)."""
    splitting: Splitting
    """The splitting at x⁺."""
    report: Tensor
    """What `PlannedStep.report` reads, float64. If the host knows the weights: the norms of Δ_j for j = k + `ROWS`, and
    with a second evaluation that of N² − N¹, (N, 4 or 5). Else the columns of `Report`, and whether λ is negative at
    x⁺, (N, 9)."""


StepFunction = Callable[[Splitting, History, Plan, Tolerance], TriedStep]
"""`try_step`, or its compiled form."""


def try_step(splitting: Splitting, history: History, plan: Plan, tol: Tolerance) -> TriedStep:
    """A step of every sample: predict, evaluate N once, correct.

    x_p = e^z x + h Σ_{j<k} g_j c_j, N = N(x_p, t+h), x_c = x_p + w Δ_k, Δ_j = N − Σ_{l<j} q_l(1) c_l. The sums over the
    divided differences c_j are sums over the values in the slots.

    Args:
        splitting: the splitting at the state.
        history: where the samples are.
        plan: what the host says.
        tol: tolerance of a step.

    Source: Nørsett 1969; Hochbruck & Ostermann 2011, Exponential multistep methods of Adams-type, BIT.
    """
    x = history.x
    past = history.values
    if history.states is not None:
        past = torch.addcmul(past, _per_slot(splitting.lam, x), history.states)
    # one product for the predictor and the differences: it reads the past once
    products = _products(plan.past, past.reshape(*past.shape[:2], -1))
    if plan.weights is None:
        assert plan.basis is not None
        weights, of_past = step_weights(-plan.h * splitting.lam, plan.h, plan.basis)
        integral = combined(of_past, past)
    else:
        weights, integral, products = plan.weights, products[:, 0].view_as(x), products[:, 1:]
    predicted = torch.addcmul(integral, weights.decay, x)
    state = predicted if plan.second is None else torch.where(plan.second, history.corrected, predicted)
    value = splitting.nonlinear(plan.time, state).to(x.dtype)  # autocast is for f only
    differences = value.reshape(len(x), 1, -1) - products  # Δ_k first
    gap = differences[:, 0].view_as(x)
    corrected = new = torch.addcmul(predicted, weights.corrector, gap)
    if plan.second is not None and plan.corrects_again is not None:
        new = torch.where(plan.second & ~plan.corrects_again, state, corrected)
    after = splitting.at(plan.time, new)
    with torch.no_grad():
        size = torch.maximum(x.abs(), new.abs())
        tolerance = tol.allowed(size, math.sqrt(x[0].numel())).reshape(len(x), 1, -1)
        parts = [differences / tolerance]
        if plan.second is not None:
            parts.append((value - history.value).reshape(len(x), 1, -1) / tolerance)
        report = _norms(parts) if plan.weights is not None else _weighted_report(parts, weights, after, new)
    return TriedStep(new, corrected, state, value, gap, past, after, report)


def step_weights(z: Tensor, h: Tensor, basis: Tensor, theta: Tensor | None = None) -> tuple[StepWeights, Tensor]:
    """The weights of a step on the device, and those of the values in the slots, (N, R, ...).

    Args:
        z: −λh, broadcast to x, with the batch dimension.
        h: the signed length, (N, 1, ..., 1).
        basis: the weights as combinations of the moments, (N, R + 1, P).
        theta: the share of the step for states inside it, (N, 1, ..., 1); None is its end.
    """
    argument = z if theta is None else theta * z
    found = torch.stack(moments(argument, basis.shape[2]), 1)  # (N, P, ...)
    if theta is not None:
        power = torch.arange(1, basis.shape[2] + 1, dtype=theta.dtype.to_real(), device=z.device)
        found = found * theta[:, None] ** power.reshape(-1, *[1] * (z.ndim - 1))
    mixed = _products(basis, found.reshape(*found.shape[:2], -1)).reshape(len(basis), -1, *z.shape[1:])
    return StepWeights(torch.exp(argument), h * found[:, 0], mixed[:, -1]), mixed[:, :-1]


def values_at(weights: StepWeights, of_past: Tensor, x: Tensor, past: Tensor, gap: Tensor) -> Tensor:
    """States inside a step, from the polynomial that the step uses.

    Args:
        weights: for the share of the step.
        of_past: those of the values in the slots, (M, R, ...).
        x: state at its start, (M, *S).
        past: the values of N in the slots, (M, R, *S).
        gap: Δ_k, (M, *S).
    """
    state = torch.addcmul(combined(of_past, past), weights.decay, x)
    return torch.addcmul(state, weights.corrector, gap)


def combined(weights: Tensor, values: Tensor) -> Tensor:
    """The sum over the slots of weights (N, R, ...) times values (N, R, *S), (N, *S)."""
    if weights[0, 0].numel() == 1:
        flat = _products(weights.reshape(len(values), 1, -1), values.reshape(*values.shape[:2], -1))
        return flat.reshape(len(values), *values.shape[2:])
    return (weights * values).sum(1)


def _products(weights: Tensor, values: Tensor) -> Tensor:
    """The products of matrices (N, K, R) and (N, R, D), (N, K, D), in the dtype of the values.

    Autocast and torch's settings for products of float32 round a product of matrices to fewer bits, but not a sum.
    """
    if has_autocast(values) or (values.dtype == torch.float32 and rounds_products()):
        return (weights[..., None] * values[:, None]).sum(2)
    return torch.bmm(weights, values)


def _per_slot(lam: Tensor, x: Tensor) -> Tensor:
    """λ as it broadcasts to (N, R, *S)."""
    full = lam.reshape(*[1] * (x.ndim - lam.ndim), *lam.shape)
    return full[:, None]


def _norms(parts: list[Tensor]) -> Tensor:
    """The norms over the state of parts (N, K, D), (N, sum of K), float64."""
    norms = [norm_of_rows(part) for part in parts]
    return norms[0] if len(norms) == 1 else torch.cat(norms, 1)


def _weighted_report(parts: list[Tensor], weights: StepWeights, after: Splitting, x: Tensor) -> Tensor:
    """The report where the weights vary inside samples.

    Args:
        parts: Δ_j for j = k + `ROWS`, and N² − N¹ if there is a second evaluation, per tolerance, (N, 4 or 1, D).
        weights: of the step.
        after: the splitting at x⁺.
        x: x⁺, (N, *S).
    """
    phi1, corrector = (w.expand_as(x).reshape(len(x), 1, -1) for w in (weights.phi1, weights.corrector))
    differences, changed = parts[0], parts[1] if len(parts) > 1 else torch.zeros_like(parts[0][:, :1])
    norms = _norms([differences * phi1, differences[:, :1] * corrector, changed * corrector])
    largest = [w.abs().amax(2) for w in (corrector, phi1)]
    return torch.cat((norms, *largest, after.has_negative_damping(x).reshape(-1, 1)), 1)


def first_history(splitting: Splitting, x: Tensor, n1: Tensor, slots: int) -> History:
    """The samples before their first step, with N in the first slot.

    Args:
        splitting: the splitting at the initial state.
        x: initial state, (N, *S).
        n1: N there, (N, *S).
        slots: number of slots R.
    """
    first = n1 if splitting.constant else n1 - splitting.lam * x
    empty = x.new_zeros(len(x), slots - 1, *x.shape[1:])
    states = None if splitting.constant else torch.cat((x[:, None], empty), 1)
    return History(x, torch.cat((first[:, None], empty), 1), states, x, n1)


def restarted_history(
    history: History, splitting: Splitting, x: Tensor, n1: Tensor, slot: Tensor, samples: Tensor
) -> History:
    """Where the samples are after some of them have jumped: their newest values are those after the jump.

    Args:
        history: where they were.
        splitting: the splitting at the new states.
        x: the new states, (N, *S).
        n1: N there, (N, *S).
        slot: of each sample's newest value, (N,).
        samples: those that have jumped, (N,).
    """
    mask = samples.reshape(-1, *[1] * (x.ndim - 1))
    index = torch.arange(len(x), device=x.device), slot
    first = n1 if splitting.constant else n1 - splitting.lam * x

    def put(ring: Tensor, new: Tensor) -> Tensor:
        return ring.index_put(index, torch.where(mask, new, ring[index]))

    values, states = put(history.values, first), None if history.states is None else put(history.states, x)
    return History(x, values, states, history.corrected, history.value)


def moved_history(history: History, tried: TriedStep, lam: Tensor, row: Tensor, accepted: Tensor | None) -> History:
    """Where the samples are after a step. Without gradients it writes into the history.

    Args:
        history: where they were.
        tried: the step.
        lam: its λ_n.
        row: the slot of each sample's new value, counted through the slots of all samples, (N,).
        accepted: the samples that accept it, (N, 1, ..., 1); None is all.
    """
    x, value = tried.x, tried.value
    if accepted is not None:
        x = torch.where(accepted, x, history.x)
        value = torch.where(accepted, value, 0.0)

    def put(ring: Tensor, new: Tensor) -> Tensor:
        rows = ring.flatten(0, 1)
        rows = rows.index_copy(0, row, new) if torch.is_grad_enabled() else rows.index_copy_(0, row, new)
        return rows.view_as(ring)

    if history.states is None:
        return History(x, put(history.values, value), None, tried.corrected, tried.value)
    state = tried.state if accepted is None else torch.where(accepted, tried.state, 0.0)
    return History(
        x, put(history.values, value - lam * state), put(history.states, state), tried.corrected, tried.value
    )
