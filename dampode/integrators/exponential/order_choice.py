"""How a multistep step is judged, and which order and step a sample takes next: compiled loops over the samples."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dampode.integrators.exponential.multistep_weights import ROWS, Nodes
from dampode.integrators.exponential.numba_loop import compiled_loop

__all__ = ["STIFF_BOUND", "Judgement", "Report", "Samples", "decide", "judge", "weighted"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_TARGET = 0.15
"""A step is made as long as an error of this share of the tolerance allows."""
_OTHER_ORDER = 0.88
"""What a step of another order than the last one counts."""
_TWO_EVALUATIONS = 0.7
"""What a step with two evaluations counts."""
_STABLE_ONE = np.array([np.inf, 1, 0.54, 0.3, 0.16, 0.08, 0.04, 0.02, 0.01, 0.005])
"""By order: the largest L hφ_1 at which the method with one evaluation damps errors, L = |∂N/∂x|."""
_STABLE_TWO = np.array([np.inf, 2, 2.4, 1.93, 1.41, 1.03, 0.77, 0.57, 0.43, 0.3])
"""The same with two evaluations."""
STIFF_BOUND = 1.2
"""Stability bounds a step if L hφ_1 is above this: a stiff f keeps it between 1 and 3, at orders 1 and 2. Steps that
accuracy bounds are shorter but for a few."""
_UNUSUAL = 3.0
"""The direction of an error is seldom the worst one: steps are allowed this many times `_STABLE_ONE`."""
_LENGTHS = np.array([0.3, 1.02, 3.5])
"""Lengths, in units of the last step, between which the error follows a power law."""
_GAUSS, _GAUSS_WEIGHTS = np.array([0.15505103, 0.64494897]), np.array([0.31804138, 0.18195862])
"""The Gauss rule of two points for the weight 1 − v on [0, 1]."""
_LOG_LENGTHS = np.log(_LENGTHS)
_LEGENDRE = np.polynomial.legendre.leggauss(5)
"""Points and weights of the Gauss rule of five points on [−1, 1]. It is exact for (1 − u) q_j(u), j <= 8."""
_EVALUATE_AGAIN = 0.25
"""A second evaluation follows where it would change the state by more than this share of the tolerance."""
_MEASURE_FIRST, _MEASURE_EVERY = 20, 40
"""Accepted steps after which a second evaluation measures L."""

_NOISE = 1e-3
"""Rounding changes N by this share of the smallest correction that measures L."""


class Report(NamedTuple):
    """What a step tells the control, per sample. Norms are in units of the tolerance of a step."""

    differences: Floats
    """‖hφ_1 Δ_j‖ for j = k + `ROWS`, (N, 4)."""
    moved: Floats
    """‖x_c − x_p‖, how far the corrector moves the predicted state, (N,)."""
    changed: Floats
    """‖w (N² − N¹)‖ after a second evaluation, (N,)."""
    weight: Floats
    """max|w| over the state, (N,)."""
    phi1: Floats
    """max|hφ_1| over the state, (N,)."""


class Judgement(NamedTuple):
    """What becomes of the samples. Masks, (N,)."""

    accepted: Mask
    again: Mask
    """The samples whose N is evaluated a second time before the step can be accepted."""
    rejected: Mask
    finite: Mask
    """Whether the error is a finite number."""
    counts: tuple[int, int, int, int]
    """How many samples are accepted, are evaluated again, are rejected, and have a finite error."""


class Samples(NamedTuple):
    """What the control keeps of each sample. A compiled loop changes the arrays in place."""

    times: Floats
    """τ of the value in every slot, (N, R)."""
    newest: Integers
    """The slot of the newest value, (N,). Those that follow are (N,), too."""
    values: Integers
    order: Integers
    tau: Floats
    end: Floats
    """τ after the step that is being tried."""
    steps: Integers
    """Accepted steps since the start or the last jump."""
    shortened: Mask
    """Whether the last step was rejected."""
    lipschitz: Floats
    """L."""
    moved: Floats
    """‖x_c − x_p‖ of the last step."""
    second: Mask
    """Whether the next call is the second evaluation of a step."""
    size: Floats
    """D_j of the last step for j = k + `ROWS`, (N, 4)."""


@compiled_loop
def _newton_value(s: Floats, j: int, u: float) -> float:
    """q_j(u) = Π_{i<j} (u − s_i)."""
    product = 1.0
    for i in range(j):
        product *= u - s[i]
    return product


@compiled_loop
def _remainder(s: Floats, j: int) -> float:
    """I_j = ∫_0^1 (1 − u) q_j(u) du."""
    total, points = 0.0, _LEGENDRE[0]
    for i in range(len(points)):
        u = 0.5 * (points[i] + 1.0)
        total += 0.5 * _LEGENDRE[1][i] * (1.0 - u) * _newton_value(s, j, u)
    return total


@compiled_loop
def judge(
    nodes: Nodes, s: Floats, report: Report, samples: Samples, rounding: float
) -> tuple[Mask, Mask, Mask, Mask, tuple[int, int, int, int]]:
    """The parts of a `Judgement`. It measures L and keeps D_j."""
    count = len(nodes.end)
    accepted, again, rejected = np.zeros(count, np.bool_), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    finite = np.ones(count, np.bool_)
    for n in range(count):
        order, values = nodes.order[n], nodes.values[n]
        for row in range(len(ROWS)):
            j = order + ROWS[row]
            known = 1 <= j <= values
            samples.size[n, row] = report.differences[n, row] / _newton_value(s[n], j, 1.0) if known else np.inf
        starting = order == values
        error = samples.size[n, 0 if starting else 2] * _remainder(s[n], order - 1 if starting else order)
        if not nodes.end[n] > nodes.begin[n]:
            continue
        finite[n], within = error < np.inf, error <= 1.0
        if samples.second[n]:
            scale, last = samples.moved[n] * report.weight[n], samples.lipschitz[n]
            if samples.moved[n] > rounding and report.changed[n] < np.inf:
                samples.lipschitz[n] = max(last / 2, report.changed[n] / scale)
            else:  # rounding may hide L, but L is no larger than this
                bound = (report.changed[n] + _NOISE * rounding) / scale
                samples.lipschitz[n] = max(last / 2, bound) if bound < last else last
        elif within:
            since = samples.steps[n] - _MEASURE_FIRST
            due = since >= 0 and since % _MEASURE_EVERY == 0 and report.moved[n] > rounding
            change = samples.lipschitz[n] * report.weight[n] * report.moved[n]
            unstable = samples.lipschitz[n] * report.phi1[n] > _UNUSUAL * _STABLE_ONE[samples.order[n]]
            again[n] = due or change > _EVALUATE_AGAIN or unstable
        accepted[n], rejected[n] = within and not again[n], not within
    return accepted, again, rejected, finite, (accepted.sum(), again.sum(), rejected.sum(), finite.sum())


@compiled_loop
def weighted(norms: Floats, own: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The parts of a `Report` from the norms of Δ_j and, after a second evaluation, of N² − N¹.

    Args:
        norms: for j = k + `ROWS` and of N² − N¹, (N, 4 or 5).
        own: e^z, hφ_1 and w, (3, N).
    """
    count, rows = len(norms), len(ROWS)
    differences, moved, changed = np.empty((count, rows)), np.empty(count), np.zeros(count)
    phi1, weight = np.abs(own[1]), np.abs(own[2])
    for n in range(count):
        for row in range(rows):
            differences[n, row] = norms[n, row] * phi1[n]
        moved[n] = norms[n, 0] * weight[n]
        if norms.shape[1] > rows:
            changed[n] = norms[n, rows] * weight[n]
    return differences, moved, changed, weight, phi1


@compiled_loop
def _integrals(s: Floats, count: int, found: Floats) -> None:
    """∫_0^r (r − u) q_j(u) du / r² for the r of `_LENGTHS`, written into ``found[j, i]`` for j < count."""
    for i in range(len(_LENGTHS)):
        left, right = _GAUSS_WEIGHTS[0], _GAUSS_WEIGHTS[1]
        for j in range(count):
            found[j, i] = left + right
            left *= _LENGTHS[i] * _GAUSS[0] - s[j]
            right *= _LENGTHS[i] * _GAUSS[1] - s[j]


@compiled_loop
def _length(integrals: Floats, size: float) -> float:
    """The r at which size · I(r) is the target.

    Args:
        integrals: I(r) / r² at the r of `_LENGTHS`, (3,).
        size: D_j.
    """
    if size == 0 or math.isnan(size):
        return np.inf if size == 0 else 0.0
    middle = math.log(integrals[1]) + 2 * _LOG_LENGTHS[1]
    above = math.log(_TARGET / size) - middle
    other = 2 if above > 0 else 0
    rise = math.log(integrals[other]) + 2 * _LOG_LENGTHS[other] - middle
    return math.exp(_LOG_LENGTHS[1] + above * (_LOG_LENGTHS[other] - _LOG_LENGTHS[1]) / rise)


@compiled_loop
def _next_positions(s: Floats, accepted: bool, found: Floats) -> None:
    """The next step's nodes, in units of this one, written into ``found``."""
    found[0] = 0.0 if accepted else s[0]
    for i in range(1, len(s)):
        found[i] = s[i - 1] - 1.0 if accepted else s[i]


@compiled_loop
def decide(
    nodes: Nodes, s: Floats, report: Report, judgement: Judgement, samples: Samples, max_order: int
) -> tuple[Floats, Mask]:
    """What `OrderControl.decide` returns. It moves the samples."""
    count, slots = nodes.times.shape
    next_h, stiff = nodes.end - nodes.begin, np.zeros(count, np.bool_)
    length, limit, worth = np.empty(len(ROWS)), np.empty(len(ROWS)), np.empty(len(ROWS))
    integrals, ahead = np.empty((slots - 1, len(_LENGTHS))), np.empty(slots - 1)
    for n in range(count):
        order, accepted, rejected = nodes.order[n], judgement.accepted[n], judgement.rejected[n]
        waits, samples.second[n] = samples.second[n], judgement.again[n]
        samples.moved[n] = report.moved[n]
        if not (accepted or rejected):
            continue
        starting, finite = order == nodes.values[n], judgement.finite[n]
        _next_positions(s[n], accepted, ahead)
        speed = max(samples.lipschitz[n] * report.phi1[n], 1e-300)
        best, highest = 0, max_order if accepted else order
        _integrals(ahead, min(order + 2, slots - 1), integrals)
        for row in range(len(ROWS)):
            choice = order + ROWS[row] - 1  # the order that this difference speaks for
            length[row] = _length(integrals[min(max(choice, 0), slots - 2)], samples.size[n, row])
            safe = min(max(choice, 0), len(_STABLE_ONE) - 1)
            one, two = _UNUSUAL * _STABLE_ONE[safe] / speed, 0.8 * _STABLE_TWO[safe] / speed
            worth_one, worth_two = min(length[row], one), _TWO_EVALUATIONS * min(length[row], two)
            limit[row] = one if worth_one >= worth_two else two
            worth[row] = max(worth_one, worth_two) if 1 <= choice <= highest else -1.0
            if row == 2:  # the present order
                worth[row] /= _OTHER_ORDER
            if worth[row] > worth[best]:
                best = row
        next_order = order + ROWS[best] - 1
        if starting:  # the order rises as long as the steps do not shorten by it
            rises = order == 1 or length[0] >= length[1]
            best = 0 if accepted or rises else 1
            next_order = min(order + rises, max_order) if accepted else max(order - (not rises), 1)
        factor = min(length[best], limit[best])
        if accepted:
            grown = 20.0 if samples.steps[n] == 0 else (2.0 if order >= 4 and samples.steps[n] >= 8 else 3.0)
            factor = min(max(factor, 0.2), 1.0 if samples.shortened[n] else grown)
        else:
            factor = min(max(factor, 0.2), 0.8) if finite else 0.2
        next_h[n] *= factor
        # a stiff f lets steps swing: a long one that is rejected, and shorter ones after it
        stiff[n] = ((accepted and waits) or (rejected and finite)) and speed > STIFF_BOUND
        samples.order[n], samples.shortened[n] = next_order, rejected
        if accepted:
            samples.newest[n] = (samples.newest[n] + 1) % slots
            samples.times[n, samples.newest[n]] = samples.tau[n] = nodes.end[n]
            samples.values[n] = min(samples.values[n] + 1, slots - 1)
            samples.steps[n] += 1
    return next_h, stiff
