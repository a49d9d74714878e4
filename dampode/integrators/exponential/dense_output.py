"""Dense output of an exponential method: states inside accepted steps, at a step's own accuracy, without calls of f."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode.functional import phis


class Segment(NamedTuple):
    """An attempted step: what the state inside it needs."""

    x: Tensor
    n1: Tensor
    slope: Tensor
    curve: Tensor
    cubic: Tensor
    lam: Tensor
    h: Tensor
    """Signed step, (N, 1, ..., 1), in x's dtype."""
    end: Tensor
    """Time since t0 after the attempt, |t − t0|, (N,); unchanged where it was rejected."""


class DenseOutput:
    """States at asked times, from N ≈ N_1 + θ (slope + D/2) + θ² (curve − 3D/2) + θ³ D over a step, θ in (0, 1].

    The quadratic N_1 + θ slope + θ² curve is the step's own; D = h³ N‴/6, from the last step's curvature, adds
    D θ (θ − 1/2) (θ − 1), which leaves its nodes where they are. With z = −hλ,
    x(t + θh) = e^{θz} x + θh [φ_1(θz) N_1 + θ φ_2(θz) (slope + D/2) + 2θ² φ_3(θz) (curve − 3D/2) + 6θ³ φ_4(θz) D]:
    at θ = 1 the step itself, to the tolerance; uniformly of order 3 in between.

    Segments are kept for ``capacity`` steps and then evaluated together, so the cost in Python does not grow with the
    number of times, and without gradients memory stays bounded.

    Args:
        x: initial state, (N, *S).
        times: the asked times as |t − t0| > 0, increasing, (T,) float64.
        capacity: segments kept.
        start: |t − t0| at which the first segment begins, (N,); None is 0.
    """

    def __init__(self, x: Tensor, times: Tensor, capacity: int = 64, start: Tensor | None = None) -> None:
        self.wanted = len(times) > 0
        """Whether any time is asked for: else no step has to be kept."""
        self._times = times
        self._capacity = capacity
        self._segments: list[Segment] = []
        self._start = torch.zeros(len(x), dtype=times.dtype, device=x.device) if start is None else start
        self._rows: list[Tensor] = []
        self._places: list[Tensor] = []
        self._like = x

    def add(self, segment: Segment) -> None:
        """Keep a step."""
        self._segments.append(segment)
        if len(self._segments) == self._capacity:
            self._evaluate()

    def states(self) -> Tensor:
        """The states at the asked times, (T, N, *S); NaN where no step came by."""
        return placed(*self.found(), len(self._times), self._like)

    def found(self) -> tuple[Tensor, Tensor]:
        """Where in (T · N) the steps so far gave a state, (M,), and the states, (M, *S)."""
        self._evaluate()
        none = self._like.new_empty((0, *self._like.shape[1:]))
        return torch.cat([*self._places, self._start.new_empty(0, dtype=torch.long)]), torch.cat([*self._rows, none])

    def _evaluate(self) -> None:
        """Turn the kept segments into states."""
        segments, self._segments = self._segments, []
        if not segments:
            return
        ends = torch.stack([s.end for s in segments], 1)  # (N, B)
        begins = torch.cat((self._start[:, None], ends[:, :-1]), 1)
        self._start = ends[:, -1]
        asked = self._times.expand(len(ends), -1).contiguous()  # (N, T)
        sample, place = ((asked > begins[:, :1]) & (asked <= ends[:, -1:])).nonzero(as_tuple=True)
        if len(sample) == 0:
            return
        step = torch.searchsorted(ends, asked)[sample, place]
        begin = begins[sample, step]
        theta = (self._times[place] - begin) / (ends[sample, step] - begin)

        def rows(values: list[Tensor]) -> Tensor:
            return torch.stack(values)[step, sample]  # (M, *S)

        x = rows([s.x for s in segments])
        theta = theta.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        length = theta * rows([s.h for s in segments])
        e, p1, p2, p3, p4 = phis(-length * rows([_per_sample(s.lam, s.x) for s in segments]), 4)
        cubic = rows([s.cubic for s in segments])
        state = torch.addcmul(e * x, length * p1, rows([s.n1 for s in segments]))
        state = torch.addcmul(state, length * theta * p2, rows([s.slope for s in segments]) + cubic / 2)
        curve = torch.add(rows([s.curve for s in segments]), cubic, alpha=-1.5)
        state = torch.addcmul(state, 2 * length * theta**2 * p3, curve)
        self._rows.append(torch.addcmul(state, 6 * length * theta**3 * p4, cubic))
        self._places.append(place * len(self._like) + sample)


def placed(places: Tensor, rows: Tensor, times: int, like: Tensor) -> Tensor:
    """The states ``rows`` (M, *S) at their ``places`` (M,) in (T · N), as (T, N, *S); NaN elsewhere."""
    flat = like.new_full((times * len(like), *like.shape[1:]), torch.nan)
    return flat.index_copy(0, places, rows).reshape(times, *like.shape)


def _per_sample(lam: Tensor, x: Tensor) -> Tensor:
    """λ with x's batch dimension, (N, ...)."""
    shape = (1,) * (x.ndim - lam.ndim) + lam.shape
    return lam.reshape(shape).expand(len(x), *shape[1:])
