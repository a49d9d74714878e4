"""Dense output: states inside accepted steps, without calls of f, at given times or as a function of time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dampode.functional import phis
from dampode.integrators.output_times import scatter_states

__all__ = ["DenseOutput", "Interpolant", "StatesInside", "interpolant_between", "selected"]


class StatesInside(Protocol):
    """The states inside a step. Implementations are named tuples of tensors, with or without the batch dimension."""

    @property
    def x(self) -> Tensor:
        """State at the start of the step, (N, *S)."""

    def state(self, theta: Tensor) -> Tensor:
        """The states at θ in [0, 1], (N, *S)."""

    def last_term(self, theta: Tensor) -> Tensor:
        """|the part of the states that an interpolant of one order less leaves out|, (N, *S)."""

    def __iter__(self) -> Iterator[Any]:
        """The tensors."""


class Interpolant(NamedTuple):
    """The states inside a step, from N ≈ N_1 + θ (slope + D/2) + θ² (curve − 3D/2) + θ³ D, θ in [0, 1].

    D = h³ N‴/6 adds the cubic D θ (θ − 1/2) (θ − 1) to a quadratic; the cubic is 0 at the nodes of Krogstad's method,
    which uses the quadratic itself. Then the states are uniformly of order 3.
    """

    x: Tensor
    """State at the start of the step, (N, *S)."""
    n1: Tensor
    """N there, (N, *S)."""
    slope: Tensor
    """θ coefficient of N over the step, (N, *S)."""
    curve: Tensor
    """θ² coefficient of N, (N, *S)."""
    cubic: Tensor
    """θ³ coefficient of N, the third difference D, (N, *S)."""
    lam: Tensor
    """λ_n, broadcast to x."""
    h: Tensor
    """Signed length, (N, 1, ..., 1), in x's dtype."""

    def state(self, theta: Tensor) -> Tensor:
        """The states at θ, (N, *S): at θ = 0 x itself, to the last bit.

        With z = −hλ,
        x(t + θh) = e^{θz} x + θh [φ_1(θz) N_1 + θ φ_2(θz) (slope + D/2) + 2θ² φ_3(θz) (curve − 3D/2) + 6θ³ φ_4(θz) D].

        Args:
            theta: θ, (N, 1, ..., 1), in x's dtype.
        """
        length = theta * self.h
        e, p1, p2, p3, p4 = phis(-length * self.lam, 4)
        state = torch.addcmul(e * self.x, length * p1, self.n1)
        state = torch.addcmul(state, length * theta * p2, self.slope + self.cubic / 2)
        curve = torch.add(self.curve, self.cubic, alpha=-1.5)
        state = torch.addcmul(state, 2 * length * theta**2 * p3, curve)
        return torch.addcmul(state, 6 * length * theta**3 * p4, self.cubic)

    def last_term(self, theta: Tensor) -> Tensor:
        """|the part of the states that comes from D|: what an interpolant of one order less leaves out, (N, *S)."""
        length = theta * self.h
        _, _, p2, p3, p4 = phis(-length * self.lam, 4)
        return (length * theta * (p2 / 2 - 3 * theta * p3 + 6 * theta**2 * p4) * self.cubic).abs()


def interpolant_between(x: Tensor, n1: Tensor, end: Tensor, n_end: Tensor, lam: Tensor, h: Tensor) -> Interpolant:
    """The interpolant with given states and N at both ends of a step. For λ = 0 it is the cubic of Hermite.

    N is the quadratic through N_1 and N at the end whose states meet ``end``. The error is O(h^4) at fixed λ.

    Args:
        x: the state at the start, (N, *S).
        n1: N there, (N, *S).
        end: the state at the end, (N, *S).
        n_end: N there, with the same λ, (N, *S).
        lam: λ, broadcast to x.
        h: the signed length, 0-dim or (N, 1, ..., 1), in x's dtype; 0 where x and ``end`` are equal.
    """
    h = h.expand(len(x), *[1] * (x.ndim - 1))
    e, p1, p2, p3 = phis((-h * lam).to(x.dtype))
    rise = n_end - n1
    missing = end - torch.addcmul(torch.addcmul(e * x, h * p1, n1), h * p2, rise)
    curve = missing / torch.where(h == 0, 1.0, h * (2 * p3 - p2))
    return Interpolant(x, n1, rise - curve, curve, torch.zeros_like(x), lam, h)


def selected(steps: Sequence[StatesInside], number: Tensor, sample: Tensor) -> StatesInside:
    """An interpolant for each of M times: that of a step of a sample.

    Args:
        steps: the steps.
        number: the number of the step, (M,) int64.
        sample: the number of the sample, (M,) int64.
    """
    like = steps[0].x
    step: Callable[..., StatesInside] = type(steps[0])
    return step(
        *(torch.stack([_per_sample(v, like) for v in values])[number, sample] for values in zip(*steps, strict=True))
    )


class DenseOutput:
    """States at the output times.

    A time at the end of a step belongs to the next step. Up to ``capacity`` steps are kept and then evaluated together.
    So the cost in Python does not grow with the number of output times, and memory stays bounded without gradients.

    Args:
        x: initial state, (N, *S).
        tau: τ > 0 of the output times, (T,), or (N, T) for times of each sample, float64.
        capacity: number of steps to keep.
        start: τ at which the first step begins, (N,); None is 0.
    """

    def __init__(self, x: Tensor, tau: Tensor, capacity: int = 64, start: Tensor | None = None) -> None:
        self.needed = tau.shape[-1] > 0
        """Whether there is any output time. If not, no step has to be added."""
        self._tau = tau
        self._capacity = capacity
        self._steps: list[Interpolant] = []
        self._ends: list[Tensor] = []
        self._start = torch.zeros(len(x), dtype=tau.dtype, device=x.device) if start is None else start
        self._states: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._like = x

    def add(self, step: Interpolant, end: Tensor) -> None:
        """Add the next step.

        Args:
            step: the states inside it.
            end: τ after it, (N,); for samples that rejected it, τ before it.
        """
        self._steps.append(step)
        self._ends.append(end)
        if len(self._steps) == self._capacity:
            self._evaluate()

    def states(self) -> Tensor:
        """The states at the output times, (T, N, *S); NaN at times inside no step."""
        return scatter_states(*self.indexed_states(), self._tau.shape[-1], self._like)

    def indexed_states(self) -> tuple[Tensor, Tensor]:
        """The states so far, (M, *S), after their indices in (T · N), (M,), as `scatter_states` takes them."""
        self._evaluate()
        none = self._like.new_empty((0, *self._like.shape[1:]))
        indices = torch.cat([*self._indices, self._start.new_empty(0, dtype=torch.long)])
        return indices, torch.cat([*self._states, none])

    def _evaluate(self) -> None:
        """Turn the steps that are kept into states."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        ends = torch.stack(self._ends, 1)  # (N, B)
        self._ends = []
        begins = torch.cat((self._start[:, None], ends[:, :-1]), 1)
        self._start = ends[:, -1]
        tau = self._tau.expand(len(ends), -1).contiguous()  # (N, T)
        sample, output = ((tau >= begins[:, :1]) & (tau < ends[:, -1:])).nonzero(as_tuple=True)
        if len(sample) == 0:
            return
        number = torch.searchsorted(ends, tau, right=True)[sample, output]
        begin = begins[sample, number]
        theta = (tau[sample, output] - begin) / (ends[sample, number] - begin)
        theta = theta.to(self._like.dtype).reshape(-1, *[1] * (self._like.ndim - 1))
        self._states.append(selected(steps, number, sample).state(theta))
        self._indices.append(output * len(self._like) + sample)


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Values that broadcast to x, with x's batch dimension, (N, ...). More dimensions than x has follow the batch."""
    shape = (1,) * (x.ndim - values.ndim) + values.shape
    return values.reshape(shape).expand(len(x), *shape[1:])
