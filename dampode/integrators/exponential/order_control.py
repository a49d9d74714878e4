"""Which order, step and number of evaluations a sample takes next: the control of the multistep method, on the host."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, NodeWeights

__all__ = ["STIFF_BOUND", "Decision", "Judgement", "OrderControl", "Report"]

Floats = NDArray[np.float64]
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
_POINTS = np.outer(_LENGTHS, _GAUSS).ravel()
_LOG_LENGTHS = np.log(_LENGTHS)[:, None]
_EVALUATE_AGAIN = 0.25
"""A second evaluation follows where it would change the state by more than this share of the tolerance."""
_CORRECT_AGAIN = 0.3
"""The state is corrected with the second evaluation too where the corrections contract at least at this rate."""
_MEASURE_FIRST, _MEASURE_EVERY = 20, 40
"""Accepted steps after which a second evaluation measures L."""


class Report(NamedTuple):
    """What a step tells the control, per sample. Norms are in units of the tolerance of a step."""

    differences: Floats
    """‖hφ_1 Δ_j‖ for j = k + `ROWS`, (4, N)."""
    moved: Floats
    """‖x_c − x_p‖, how far the corrector moves the predicted state, (N,)."""
    changed: Floats
    """‖w (N² − N¹)‖ after a second evaluation, (N,)."""
    weight: Floats
    """max|w| over the state, (N,)."""
    phi1: Floats
    """max hφ_1 over the state, (N,)."""


class Judgement(NamedTuple):
    """What a step's error says, (N,)."""

    size: Floats
    """D_j, for j = k + `ROWS`, (4, N)."""
    accepted: Mask
    again: Mask
    """The samples whose N is evaluated a second time before the step can be accepted."""
    rejected: Mask
    finite: Mask
    """Whether the error is a finite number."""


class Decision(NamedTuple):
    """What becomes of the samples. Masks, (N,)."""

    accepted: Mask
    finite: Mask
    """Whether the error is a finite number."""
    stiff: Mask
    """Whether stability and not accuracy bounds the step, accepted or not."""
    next_h: Floats
    """The length to try next; the same as before where a second evaluation follows."""


class OrderControl:
    """The nodes, order and step of every sample.

    Args:
        size: number of samples N.
        max_order: largest order of the predictor.
        rounding: the smallest share of x that a correction must move for L to be measured, in units of the tolerance.
    """

    def __init__(self, size: int, max_order: int, rounding: float) -> None:
        self._max_order, self._rounding = max_order, rounding
        self._times = np.zeros((max_order + 2, size))
        self.newest = np.zeros(size, dtype=np.int64)
        """The slot of every sample's newest value."""
        self._count, self._order = np.ones_like(self.newest), np.ones_like(self.newest)
        self._steps = np.zeros_like(self.newest)
        self._rejected = np.zeros(size, dtype=bool)
        self._lipschitz, self._moved = np.zeros(size), np.zeros(size)
        self.tau = np.zeros(size)
        """τ of the samples."""
        self.second = np.zeros(size, dtype=bool)
        """The samples whose next call is the second evaluation of a step."""

    @property
    def spare(self) -> NDArray[np.int64]:
        """The slot of every sample that takes the next value, (N,)."""
        return (self.newest + 1) % len(self._times)

    def nodes(self, end: Floats) -> Nodes:
        """The nodes of a step to ``end``."""
        return Nodes(self._times.copy(), self.newest, self._count, self._order, self.tau, end)

    def corrects_again(self, weight: Floats) -> Mask:
        """Whether the state is corrected with the second evaluation, too."""
        return self._lipschitz * weight < _CORRECT_AGAIN

    def restart(self, samples: Mask) -> None:
        """Forget the values but the newest, after a jump."""
        self._times[:, samples] = self.tau[samples]
        self._count = np.where(samples, 1, self._count)
        self._order = np.where(samples, 1, self._order)
        self._steps = np.where(samples, 0, self._steps)

    def judge(self, nodes: Nodes, weights: NodeWeights, report: Report) -> Judgement:
        """Judge a step by its error."""
        sample, order = np.arange(len(nodes.end)), nodes.order
        starting, first = order == nodes.values, ~self.second
        index = np.where(weights.known, order + np.array(ROWS)[:, None], 1)
        size = np.where(weights.known, report.differences / weights.at_end[index, sample], np.inf)  # D_j, (4, N)
        row = np.where(starting, 0, 2)
        error = size[row, sample] * _remainder(weights, np.where(starting, order, order + 1) - 1)
        within, finite, active = error <= 1.0, error < np.inf, nodes.end > nodes.begin
        self._measure(report, active & ~first)
        again = first & within & active & self._wants_second(report)
        return Judgement(size, within & active & ~again, again, active & ~within, finite | ~active)

    def decide(
        self, nodes: Nodes, weights: NodeWeights, report: Report, judgement: Judgement, accepted: Mask
    ) -> Decision:
        """Choose the next step.

        Args:
            nodes: of this step.
            weights: of this step.
            report: what it tells.
            judgement: of its error.
            accepted: the samples among the accepted ones that move. The others repeat a part of the step.

        Source: Shampine & Gordon 1975, Chap. 7, for the choice of the order.
        """
        size, _, again, rejected, finite = judgement
        order, starting, h = nodes.order, nodes.order == nodes.values, nodes.end - nodes.begin
        nodes_next = np.where(accepted, np.roll(weights.nodes, 1, 0) - 1.0, weights.nodes)
        nodes_next[0] = np.where(accepted, 0.0, weights.nodes[0])
        length = _lengths(nodes_next, order, size)
        next_order, factor, limit = self._best(order, starting, accepted, length, report.phi1)
        cap = np.where(self._steps == 0, 20.0, np.where((order >= 4) & (self._steps >= 8), 2.0, 5.0))
        cap = np.where(self._rejected, 1.0, cap)
        # a stiff f lets steps swing: a long one that is rejected, and shorter ones after it
        stiff = ((accepted & self.second) | (rejected & finite)) & (self._lipschitz * report.phi1 > STIFF_BOUND)
        factor = np.minimum(factor, limit)
        factor = np.where(accepted, np.clip(factor, 0.2, cap), np.where(finite, np.clip(factor, 0.2, 0.8), 0.2))
        self._move(nodes, accepted, rejected, next_order)
        self.second, self._moved = again, report.moved
        return Decision(accepted, finite, stiff, h * np.where(accepted | rejected, factor, 1.0))

    def _measure(self, report: Report, samples: Mask) -> None:
        """Measure L of the samples with a second evaluation, where it is more than rounding."""
        found = report.changed / (self._moved * report.weight)
        known = samples & (self._moved > self._rounding) & (found < np.inf)
        self._lipschitz = np.where(known, np.maximum(self._lipschitz / 2, found), self._lipschitz)

    def _wants_second(self, report: Report) -> Mask:
        """Which samples evaluate N again at the corrected state."""
        due = (self._steps >= _MEASURE_FIRST) & ((self._steps - _MEASURE_FIRST) % _MEASURE_EVERY == 0)
        change = self._lipschitz * report.weight * report.moved
        unstable = self._lipschitz * report.phi1 > _UNUSUAL * _STABLE_ONE[self._order]
        wants: Mask = (due & (report.moved > self._rounding)) | (change > _EVALUATE_AGAIN) | unstable
        return wants

    def _best(
        self, order: NDArray[np.int64], starting: Mask, accepted: Mask, length: Floats, phi1: Floats
    ) -> tuple[NDArray[np.int64], Floats, Floats]:
        """The next order, the length of the next step in units of the last one for accuracy, and for stability."""
        sample = np.arange(len(order))
        choices = order + np.array(ROWS)[:, None] - 1
        safe = np.clip(choices, 0, len(_STABLE_ONE) - 1)
        speed = np.maximum(self._lipschitz * phi1, 1e-300)
        one, two = _UNUSUAL * _STABLE_ONE[safe] / speed, 0.8 * _STABLE_TWO[safe] / speed
        worth_one, worth_two = np.minimum(length, one), _TWO_EVALUATIONS * np.minimum(length, two)
        limit = np.where(worth_one >= worth_two, one, two)
        allowed = (choices >= 1) & (choices <= np.where(accepted, self._max_order, order))
        worth = np.where(allowed, np.maximum(worth_one, worth_two), -1.0)
        worth[2] /= _OTHER_ORDER
        best = worth.argmax(0)
        # while it starts, the order rises as long as the steps do not shorten by it
        rises = (order == 1) | (length[0] >= length[1])
        started = np.where(accepted, np.minimum(order + rises, self._max_order), np.maximum(order - ~rises, 1))
        best = np.where(starting, np.where(accepted | rises, 0, 1), best)
        return np.where(starting, started, choices[best, sample]), length[best, sample], limit[best, sample]

    def _move(self, nodes: Nodes, accepted: Mask, rejected: Mask, next_order: NDArray[np.int64]) -> None:
        """Advance the samples that accepted the step, and set the order of the next one."""
        changed = accepted | rejected
        spare, sample = self.spare, np.nonzero(accepted)[0]
        self._times[spare[sample], sample] = nodes.end[sample]
        self.newest = np.where(accepted, spare, self.newest)
        self._count = np.minimum(self._count + accepted, len(self._times) - 1)
        self._order = np.where(changed, next_order, self._order)
        self._steps = self._steps + accepted
        self._rejected = np.where(changed, rejected, self._rejected)
        self.tau = np.where(accepted, nodes.end, self.tau)


def _remainder(weights: NodeWeights, index: NDArray[np.int64]) -> Floats:
    """I_j = ∫_0^1 (1 − u) q_j(u) du, with j of each sample, (N,)."""
    m = np.arange(len(weights.newton))
    integrals: Floats = weights.newton[index, :, np.arange(len(index))] @ (1.0 / ((m + 1) * (m + 2)))
    return integrals


def _lengths(nodes: Floats, order: NDArray[np.int64], size: Floats) -> Floats:
    """The r at which D_{j} I_{j−1}(r) is the target, I_j(r) = ∫_0^r (r − u) q_j(u) du, for j = k + `ROWS`, (4, N).

    Args:
        nodes: of the next step, in units of the last one, (P, N).
        order: k, (N,).
        size: D_j, (4, N).
    """
    newton = np.ones((len(nodes) + 1, len(_POINTS), nodes.shape[1]))
    np.cumprod(_POINTS[:, None] - nodes[:, None], axis=0, out=newton[1:])
    index = np.clip(order + np.array(ROWS)[:, None] - 1, 0, len(nodes) - 1)
    values = newton[index[:, None], np.arange(len(_POINTS))[:, None], np.arange(len(order))]  # (4, 6, N)
    pairs = values.reshape(4, len(_LENGTHS), 2, -1)
    logs = np.log(pairs[:, :, 0] * _GAUSS_WEIGHTS[0] + pairs[:, :, 1] * _GAUSS_WEIGHTS[1]) + 2 * _LOG_LENGTHS
    above = np.log(_TARGET / size) - logs[:, 1]
    wide = above > 0
    rise = np.where(wide, logs[:, 2] - logs[:, 1], logs[:, 1] - logs[:, 0])
    run = np.where(wide, _LOG_LENGTHS[2] - _LOG_LENGTHS[1], _LOG_LENGTHS[1] - _LOG_LENGTHS[0])
    lengths: Floats = np.exp(np.minimum(_LOG_LENGTHS[1] + above * run / rise, 20.0))
    return np.where(np.isnan(lengths), 0.0, lengths)
