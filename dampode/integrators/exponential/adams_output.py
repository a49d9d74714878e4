"""Dense output of the exponential Adams method: states inside accepted steps, without calls of f."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.exponential.adams_plan import PlannedStep
from dampode.integrators.exponential.adams_step import StepWeights, TriedStep, step_weights, values_at
from dampode.integrators.exponential.numba_loop import compiled_loop
from dampode.integrators.output_times import scatter_states

__all__ = ["InnerStates", "StepPolynomial", "step_polynomial"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_CHUNK = 4
"""States are computed together for at most this many times the batch."""


class StepPolynomial(NamedTuple):
    """The states inside a step, from the polynomial that the step uses. It is a `StatesInside`."""

    x: Tensor
    """State at the start of the step, (N, *S)."""
    past: Tensor
    """The values of N in the slots, (N, R, *S)."""
    gap: Tensor
    """Δ_k, (N, *S)."""
    lam: Tensor
    """λ_n, broadcast to x."""
    h: Tensor
    """Signed length, (N, 1, ..., 1), in x's dtype."""
    basis: Tensor
    """The weights as combinations of the moments, (N, R + 1, P, 1, ..., 1)."""

    def state(self, theta: Tensor) -> Tensor:
        """The states at θ, (N, *S): at θ = 0 x itself, to the last bit."""
        return values_at(*self._weights(theta), self.x, self.past, self.gap)

    def last_term(self, theta: Tensor) -> Tensor:
        """|the part of the states that comes from Δ_k|: what the predictor's polynomial leaves out, (N, *S)."""
        return (self._weights(theta)[0].corrector * self.gap).abs()

    def _weights(self, theta: Tensor) -> tuple[StepWeights, Tensor]:
        """The weights for the share θ of the step, and those of the values in the slots."""
        return step_weights(-self.h * self.lam, self.h, self.basis.reshape(self.basis.shape[:3]), theta)


def step_polynomial(planned: PlannedStep, tried: TriedStep, x: Tensor, lam: Tensor) -> StepPolynomial:
    """The states inside a step.

    Args:
        planned: the step, as the host knows it.
        tried: the step.
        x: the state at its start, (N, *S).
        lam: its λ_n.
    """
    basis = planned.basis(x)
    return StepPolynomial(
        x, tried.past, tried.gap, lam, planned.plan.h, basis.reshape(*basis.shape, *[1] * (x.ndim - 1))
    )


class InnerStates:
    """States at the output times, from the polynomial that a step uses.

    x(t + θh) = e^{θz} x + h Σ_{j<=k} c_j ∫_0^θ e^{z(θ−s)} q_j(s) ds, with c_k = Δ_k / q_k(1). The integrals are
    combinations of θ^{m+1} M_m(θz). At θ = 0 this is x, to the last bit, and at θ = 1 it is the step itself. An output
    time at the end of a step belongs to the next step.

    Args:
        x: initial state, (N, *S).
        tau: τ > 0 of the output times, (T,), or (N, T) for times of each sample.
        start: τ at which the first step begins, (N,); None is 0.
    """

    def __init__(self, x: Tensor, tau: Floats, start: Floats | None = None) -> None:
        self._tau, self._like = tau, x
        self._next = self._passed(np.zeros(len(x)) if start is None else start)
        self._states: list[Tensor] = [x.new_empty((0, *x.shape[1:]))]
        self._indices: list[Integers] = [np.empty(0, dtype=np.int64)]

    def add(self, planned: PlannedStep, tried: TriedStep, x: Tensor, lam: Tensor, accepted: Mask) -> None:
        """Add the states inside a step.

        Args:
            planned: the step, as the host knows it.
            tried: the step.
            x: the state at its start, (N, *S).
            lam: its λ_n.
            accepted: the samples that accept it, (N,).
        """
        if self._tau.shape[-1] == 0:
            return
        sample, output, theta = _times_inside(
            self._tau.reshape(-1, self._tau.shape[-1]), self._next, planned.nodes.begin, planned.nodes.end, accepted
        )
        for begin in range(0, len(sample), _CHUNK * len(x)):
            part = slice(begin, begin + _CHUNK * len(x))
            self._evaluate(planned, tried, x, lam, sample[part], output[part], theta[part])

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S); NaN at times that no step reached."""
        return scatter_states(*self.indexed_states(), self._tau.shape[-1], self._like)

    def indexed_states(self) -> tuple[Tensor, Tensor]:
        """The states so far, (M, *S), after their indices in (T · N), (M,), as `scatter_states` takes them."""
        index = torch.from_numpy(np.concatenate(self._indices)).to(self._like.device)
        return index, torch.cat(self._states)

    def _passed(self, tau: Floats) -> Integers:
        """The number of output times before the samples' τ, (N,)."""
        shared = self._tau.ndim == 1
        passed = np.searchsorted(self._tau, tau) if shared else (self._tau < tau[:, None]).sum(1)
        return np.asarray(passed, dtype=np.int64)

    def _evaluate(
        self,
        planned: PlannedStep,
        tried: TriedStep,
        x: Tensor,
        lam: Tensor,
        sample: Integers,
        output: Integers,
        theta: Floats,
    ) -> None:
        """The states of some samples at some output times, at the shares θ of the step, each (M,)."""
        index, size = torch.from_numpy(sample).to(x.device), len(x)
        every = len(sample) == size and bool((sample == np.arange(size)).all())
        start, past, gap = (v if every else v.index_select(0, index) for v in (x, tried.past, tried.gap))
        shared = every or lam.ndim < x.ndim or len(lam) == 1
        weights, of_past = planned.inside(sample, theta, lam if shared else lam.index_select(0, index), x)
        self._states.append(values_at(weights, of_past, start, past, gap))
        self._indices.append(output * size + sample)


@compiled_loop
def _times_inside(
    tau: Floats, following: Integers, begin: Floats, end: Floats, accepted: Mask
) -> tuple[Integers, Integers, Floats]:
    """The output times inside a step: their samples, their numbers and their shares of the step, each (M,).

    Args:
        tau: τ of the output times, (1, T) or (N, T).
        following: the number of each sample's next output time, (N,). It moves past the step.
        begin: τ before the step, (N,).
        end: τ after it, (N,).
        accepted: the samples that accept it, (N,).
    """
    passed, total = following.copy(), 0
    for n in range(len(passed)):
        row = tau[n if len(tau) > 1 else 0]
        while accepted[n] and passed[n] < len(row) and row[passed[n]] < end[n]:
            passed[n] += 1
        total += passed[n] - following[n]
    sample, output, theta = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(total)
    total = 0
    for n in range(len(passed)):
        row = tau[n if len(tau) > 1 else 0]
        for number in range(following[n], passed[n]):
            sample[total], output[total] = n, number
            theta[total] = (row[number] - begin[n]) / (end[n] - begin[n])
            total += 1
        following[n] = passed[n]
    return sample, output, theta
