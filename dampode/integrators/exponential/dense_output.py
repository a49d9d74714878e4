"""Dense output of Krogstad's method: states inside accepted steps, as accurate as a step, without calls of f."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.functional import phis
from dampode.integrators.output_times import scatter_states

__all__ = ["DenseOutput", "Interpolant"]


class Interpolant(NamedTuple):
    """What the states inside a step need."""

    x: Tensor
    """State at its start, (N, *S)."""
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
    end: Tensor
    """τ after the step, (N,); for samples that rejected it, τ before it."""


class DenseOutput:
    """States at the output times, from N ≈ N_1 + θ (slope + D/2) + θ² (curve − 3D/2) + θ³ D over a step, θ in [0, 1).

    The quadratic N_1 + θ slope + θ² curve is the one that the step itself uses. D = h³ N‴/6 adds the cubic
    D θ (θ − 1/2) (θ − 1), which is 0 at the step's nodes. With z = −hλ,
    x(t + θh) = e^{θz} x + θh [φ_1(θz) N_1 + θ φ_2(θz) (slope + D/2) + 2θ² φ_3(θz) (curve − 3D/2) + 6θ³ φ_4(θz) D].
    At θ = 0 this is x, to the last bit; at θ = 1 it is the step itself, to the tolerance. Inside the step it is
    uniformly of order 3. An output time at the end of a step belongs to the next step.

    Up to ``capacity`` steps are kept and then evaluated together. So the cost in Python does not grow with the number
    of output times, and memory stays bounded without gradients.

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
        self._start = torch.zeros(len(x), dtype=tau.dtype, device=x.device) if start is None else start
        self._states: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._like = x

    def add(self, step: Interpolant) -> None:
        """Add the next step."""
        self._steps.append(step)
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
        ends = torch.stack([s.end for s in steps], 1)  # (N, B)
        begins = torch.cat((self._start[:, None], ends[:, :-1]), 1)
        self._start = ends[:, -1]
        tau = self._tau.expand(len(ends), -1).contiguous()  # (N, T)
        sample, output = ((tau >= begins[:, :1]) & (tau < ends[:, -1:])).nonzero(as_tuple=True)
        if len(sample) == 0:
            return
        number = torch.searchsorted(ends, tau, right=True)[sample, output]
        begin = begins[sample, number]
        theta = (tau[sample, output] - begin) / (ends[sample, number] - begin)

        def select(values: list[Tensor]) -> Tensor:
            return torch.stack(values)[number, sample]  # (M, *S)

        x = select([s.x for s in steps])
        theta = theta.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        length = theta * select([s.h for s in steps])
        e, p1, p2, p3, p4 = phis(-length * select([_per_sample(s.lam, s.x) for s in steps]), 4)
        cubic = select([s.cubic for s in steps])
        state = torch.addcmul(e * x, length * p1, select([s.n1 for s in steps]))
        state = torch.addcmul(state, length * theta * p2, select([s.slope for s in steps]) + cubic / 2)
        curve = torch.add(select([s.curve for s in steps]), cubic, alpha=-1.5)
        state = torch.addcmul(state, 2 * length * theta**2 * p3, curve)
        self._states.append(torch.addcmul(state, 6 * length * theta**3 * p4, cubic))
        self._indices.append(output * len(self._like) + sample)


def _per_sample(lam: Tensor, x: Tensor) -> Tensor:
    """λ with x's batch dimension, (N, ...)."""
    shape = (1,) * (x.ndim - lam.ndim) + lam.shape
    return lam.reshape(shape).expand(len(x), *shape[1:])
