"""The stages of an implicit step, every sample at a stage of its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from dampode.integrators import kencarp
from dampode.integrators.secant import Secants
from dampode.integrators.step_control import Tolerance

_ITERATIONS = 12  # of a stage, at most: a shorter step costs less than more of them
_SHARE = 0.02  # of the tolerance that the error of a stage may take
_NEAR = ((0, 0, 0), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (3, 5, 6))  # the states that predict a stage
_LONG_AGO = 1e9  # in spans: where the history of a first step lies, so that it predicts no change

Field = Callable[[Tensor, Tensor, Tensor], Tensor]


class Stages:
    """The stages of a step.

    A sample whose stage has converged goes on to its next one at once: it waits for the others at the step's end only.

    Args:
        x: initial states, (N, d).
        span: length of the solve.
        tol: tolerance of a step.
    """

    def __init__(self, x: Tensor, span: Tensor, tol: Tolerance) -> None:
        self._tol, self._share = tol, max(_SHARE, 2 * torch.finfo(x.dtype).eps / tol.rtol)
        self._table = x.new_tensor([[*row, *[0.0] * (6 - len(row))] for row in kencarp.ROWS])
        self._near = torch.tensor(_NEAR, device=x.device)
        self._nodes = torch.tensor(kencarp.NODES, dtype=torch.float64, device=x.device)
        self._sample = torch.arange(len(x), device=x.device)[:, None]
        self.states = x[:, None].repeat(1, 8, 1)
        """The last step's stages 3 and 4, this one's start and its five stages, (N, 8, d)."""
        self.times = span * span.new_tensor([-2 * _LONG_AGO, -_LONG_AGO, *[0.0] * 6]).repeat(len(x), 1)
        """τ of the states, (N, 8)."""
        self.slopes = x.new_zeros(len(x), 6, x.shape[1])
        """h F, (N, 6, d); 0 at stages to come."""
        self._rate = x.new_full((len(x), 1), 0.5)
        self._secants = Secants(x)

    def end(self, moved: Tensor) -> None:
        """Move samples, (N, 1), to the end of their step, and keep what predicts the next one's stages."""
        self.times[:, :3] = torch.where(moved, self.times[:, 5:], self.times[:, :3])
        self.states[:, :3] = torch.where(moved[:, :, None], self.states[:, 5:], self.states[:, :3])

    def solve(self, field: Field, ends: Tensor, h: Tensor, slope: Tensor, lam: Tensor, busy: Tensor) -> Tensor:
        """Solve all stages of a step.

        Args:
            field: (τ, u, busy) -> N, (N, d).
            ends: τ of the step's ends, (N, 2).
            h: its signed length, (N, 1), in x's dtype.
            slope: F at its start, (N, d).
            lam: λ, (N, 1) or (N, d).
            busy: the samples that take part, (N, 1).

        Returns:
            Whether all five stages converged, (N, 1).
        """
        self.times[:, 2:] = torch.lerp(ends[:, :1], ends[:, 1:], self._nodes)
        self.slopes.zero_()
        self.slopes[:, 0] = h * slope
        weight, g = kencarp.damped(lam, h)
        scale, good = self.states[:, 2].abs(), busy
        stage = torch.ones_like(busy, dtype=torch.long)
        tries = torch.zeros_like(stage)
        u, base, tau = self._opened(stage)
        last_u = last_n = u
        last_size = torch.ones_like(h)
        while bool(busy.any()):
            n, again = field(tau, u, busy), busy & (tries > 0)
            self._secants.add(u - last_u, n - last_n, again)
            move = self._secants.solve(torch.addcmul(weight * base - u, g, n), g)
            size = self._tol.ratio(move, scale)
            rate = (size / last_size).nan_to_num(0.99, 0.99).clamp(1e-3, 0.99)
            self._rate = torch.where(again, rate, self._rate)
            last_u, last_n, last_size, tries = u, n, size, tries + 1
            u = torch.where(busy, u + move, u)
            solved = busy & (size <= self._share * (1 / self._rate - 1).clamp(min=1e-3))
            hopeless = busy & ~solved & ((tries >= _ITERATIONS) | ~torch.isfinite(size))
            rows = solved[:, 0].nonzero()[:, 0]
            reached, converged = stage[rows, 0], u[rows]
            self.states[rows, reached + 2] = converged
            self.slopes[rows, reached] = kencarp.stage_slope(converged, base[rows])
            onward = solved & (stage < 5)
            busy, good = onward | (busy & ~solved & ~hopeless), good & ~hopeless
            stage, tries = stage + onward, tries.masked_fill(onward, 0)
            guess, base, tau = self._opened(stage)
            u = torch.where(onward, guess, u)
        return good

    def _opened(self, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the stages that the samples are at: a first guess, the explicit part, and their τ."""
        near, tau = self._near[stage[:, 0]], self.times.gather(1, stage + 2)
        guess = kencarp.predict(self.times.gather(1, near), self.states[self._sample, near], tau)
        return guess, self.states[:, 2] + (self._table[stage[:, 0], :, None] * self.slopes).sum(1), tau
