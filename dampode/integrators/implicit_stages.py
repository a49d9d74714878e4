"""The stages of an implicit step, every sample at a stage of its own."""

import torch
from torch import Tensor

from dampode.integrators import kencarp
from dampode.integrators.secant import Secants
from dampode.integrators.step_control import Tolerance

_ITERATIONS = 12  # of a stage, at most: a shorter step costs less than more of them
_SHARE = 0.02  # of the tolerance that the error of a stage may take
_NEAR = ((0, 0, 0), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (3, 5, 6))  # the states that predict a stage
_LONG_AGO = 1e9  # in spans: where the history of a first step lies, so that it predicts no change


class Stages:
    """Where every sample is in its step.

    A sample whose stage has converged goes on to its next one at once. None waits for another, so a batch takes the
    calls of f of the sample that needs most of them.

    Args:
        x: initial states, (N, d).
        lam: λ, (N, 1) or (N, d).
        span: length of the solve.
        tol: tolerance of a step.
    """

    def __init__(self, x: Tensor, lam: Tensor, span: Tensor, tol: Tolerance) -> None:
        self._tol, self._share = tol, max(_SHARE, 2 * torch.finfo(x.dtype).eps / tol.rtol)
        self._table = x.new_tensor([[*row, *[0.0] * (6 - len(row))] for row in kencarp.ROWS])
        self._error, self._near = x.new_tensor(kencarp.ERROR).repeat(len(x), 1, 1), torch.tensor(_NEAR, device=x.device)
        self._nodes = torch.tensor(kencarp.NODES, dtype=torch.float64, device=x.device)
        self._sample = torch.arange(len(x), device=x.device)
        self.states = x[:, None].repeat(1, 8, 1)
        """The last step's stages 3 and 4, this one's start and its five stages, (N, 8, d)."""
        self.times = span * span.new_tensor([-2 * _LONG_AGO, -_LONG_AGO, *[0.0] * 6]).repeat(len(x), 1)
        """τ of the states, (N, 8)."""
        self.slopes = x.new_zeros(len(x), 6, x.shape[1])
        """F h, (N, 6, d)."""
        self.h = span.new_ones(len(x), 1)
        """Signed length of the step, (N, 1)."""
        self.u, self.now = x, self.times[:, 2:3]
        """The iterates, (N, d), and their τ, (N, 1)."""
        self.solved = torch.zeros_like(self.now, dtype=torch.bool)
        """Whether the last iteration left an error that a stage may have, (N, 1)."""
        self._base, self._before = x, (x, x)
        self._weight, self._g = torch.ones_like(lam), torch.zeros_like(lam)
        self._rate, self._size = x.new_full((len(x), 1), 0.5), x.new_ones(len(x), 1)
        self._stage, self._tries = (torch.zeros_like(self.now, dtype=torch.long) for _ in range(2))
        self._secants = Secants(x)

    def end(self, rows: Tensor) -> None:
        """Move the samples ``rows``, (R,), to the end of their step, and keep what predicts the next one's stages."""
        for kept in (self.times, self.states):
            kept[rows, :3] = kept[rows, 5:]
        self.slopes[rows, 0] = self.slopes[rows, 5]

    def begin(self, which: Tensor, end: Tensor, h: Tensor, lam: Tensor) -> None:
        """Start steps of the samples ``which``, (N, 1).

        Args:
            which: (N, 1).
            end: τ of the end, (N, 1).
            h: signed length, (N, 1).
            lam: λ, (N, 1) or (N, d).
        """
        times = torch.lerp(self.times[:, 2:3], end, self._nodes)
        self.times[:, 2:] = torch.where(which, times, self.times[:, 2:])
        self.slopes[:, 0] *= torch.where(which, h / self.h, 1.0)
        self.h = torch.where(which, h, self.h)
        self._weight, self._g = kencarp.damped(lam, self.h.to(lam.dtype))
        self._stage = self._stage.masked_fill(which, 0)

    def open(self, which: Tensor) -> None:
        """Set up the next stage of the samples ``which``, (N, 1)."""
        self._stage = self._stage + which
        self._tries = self._tries.masked_fill(which, 0)
        near = self._near[self._stage[:, 0]]
        self.now = self.times.gather(1, self._stage + 2)
        guess = kencarp.predict(self.times.gather(1, near), self.states[self._sample[:, None], near], self.now)
        self.u = torch.where(which, guess, self.u)
        self._base = self.states[:, 2] + (self._table[self._stage] @ self.slopes)[:, 0]

    def iterate(self, n: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
        """One quasi-Newton iteration.

        Args:
            n: N at the iterates, (N, d).
            running: the samples that take part, (N, 1).

        Returns:
            The samples whose stage is over, (N, 1), ``solved`` or given up, and those whose step is.
        """
        u, again = self.u, running & (self._tries > 0)
        self._secants.add(u - self._before[0], n - self._before[1], again)
        residual = torch.addcmul(torch.addcmul(-u, self._weight, self._base), self._g, n)
        move = self._secants.solve(residual, self._g)
        size = self._tol.ratio(move, self.states[:, 2].abs())
        rate = (size / self._size).nan_to_num(0.99, 0.99).clamp(1e-3, 0.99)
        self._rate = torch.where(again, rate, self._rate)
        self._before, self._size, self._tries = (u, n), size, self._tries + 1
        self.u = torch.where(running, u + move, u)
        self.solved = running & (size <= self._share * ((1 - self._rate) / self._rate).clamp(min=1e-3))
        over = self.solved | (running & ((self._tries >= _ITERATIONS) | ~torch.isfinite(size)))
        stage = self._stage[:, 0]
        self.states[self._sample, stage + 2] = self.u
        slope = kencarp.stage_slope(self.u, self._base)
        self.slopes[self._sample, stage] = torch.where(self.solved, slope, 0.0)  # no NaN to meet a zero weight
        return over, over & ((self._stage == 5) | ~self.solved)

    def error(self) -> Tensor:
        """The difference to the embedded method of order 3, (N, d)."""
        return (self._error @ self.slopes)[:, 0]
