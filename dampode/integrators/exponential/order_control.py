"""Which order, step and number of evaluations a sample takes next: the control of the multistep method, on the host."""

import numpy as np
from numpy.typing import NDArray

from dampode.integrators.exponential.multistep_weights import ROWS, Nodes
from dampode.integrators.exponential.order_choice import Judgement, Report, Samples, decide, judge

__all__ = ["OrderControl"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_CORRECT_AGAIN = 0.3
"""The state is corrected with the second evaluation too where the corrections contract at least at this rate."""


class OrderControl:
    """The nodes, order and step of every sample.

    Args:
        size: number of samples N.
        max_order: largest order of the predictor.
        rounding: the smallest share of x that a correction must move for L to be measured, in units of the tolerance.
    """

    def __init__(self, size: int, max_order: int, rounding: float) -> None:
        self._max_order, self._rounding = max_order, rounding

        def ones() -> Integers:
            return np.ones(size, dtype=np.int64)

        def zeros() -> Floats:
            return np.zeros(size)

        def no() -> Mask:
            return np.zeros(size, dtype=bool)

        self._samples = Samples(
            np.zeros((size, max_order + 2)), 0 * ones(), ones(), ones(), zeros(), zeros(), 0 * ones(), no(), zeros(),
            zeros(), no(), np.zeros((size, len(ROWS))),
        )  # fmt: skip

    @property
    def newest(self) -> Integers:
        """The slot of every sample's newest value."""
        return self._samples.newest

    @property
    def second(self) -> Mask:
        """The samples whose next call is the second evaluation of a step."""
        return self._samples.second

    @property
    def tau(self) -> Floats:
        """τ of the samples. A step changes it in place."""
        return self._samples.tau

    def nodes(self, h: Floats, active: Mask, stop: Floats) -> Nodes:
        """The nodes of the next step, as they are until `decide`. A second evaluation belongs to the step before.

        Args:
            h: the length to try, (N,).
            active: the samples that move, (N,).
            stop: where each sample's step ends at the latest, () or (N,).
        """
        times, newest, values, order, tau, end = self._samples[:6]
        step_end = np.minimum(tau + np.where(active, h, 0.0), stop)
        np.copyto(end, step_end, where=~(self.second & active))
        return Nodes(times, newest, values, order, tau, end)

    def corrects_again(self, weight: Floats) -> Mask:
        """Whether the state is corrected with the second evaluation, too."""
        return self._samples.lipschitz * weight < _CORRECT_AGAIN

    def restart(self, samples: Mask) -> None:
        """Forget the values but the newest, after a jump."""
        kept = self._samples
        kept.times[samples] = kept.tau[samples, None]
        kept.values[samples] = kept.order[samples] = 1
        kept.steps[samples] = 0

    def judge(self, nodes: Nodes, s: Floats, report: Report) -> Judgement:
        """Judge a step by its error.

        Args:
            nodes: of this step.
            s: their positions.
            report: what the step tells.
        """
        return Judgement(*judge(nodes, s, report, self._samples, self._rounding))

    def decide(self, nodes: Nodes, s: Floats, report: Report, judgement: Judgement) -> tuple[Floats, Mask]:
        """Choose the next step.

        Args:
            nodes: of this step.
            s: their positions.
            report: what it tells.
            judgement: what becomes of the samples. One neither accepted nor rejected repeats a part of the step.

        Returns:
            The lengths to try next, which are the same as before where a second evaluation follows, and whether
            stability and not accuracy bounds the step, accepted or not, (N,).

        Source: Shampine & Gordon 1975, Chap. 7, for the choice of the order.
        """
        return decide(nodes, s, report, judgement, self._samples, self._max_order)
