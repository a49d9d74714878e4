"""Newton's method for states that are too large for Jacobians: each correction by GMRES, with a space that is kept."""

from collections.abc import Callable

import torch
from torch import Tensor

from dampode.integrators.implicit.krylov import KrylovSpace, norms

__all__ = ["KrylovSpaces"]

_DIRECTIONS = 200
"""A sample keeps at most so many directions."""

_ENTRIES = 2**25
"""All directions, with their images and products, have at most so many entries."""

_FORCING = 0.05
"""The share of the residual that a correction may leave."""

_NEGLIGIBLE = 0.5
"""The same in units of the error that a stage may have."""

_SLOW = 0.4
"""A space that lets the stages of a step converge more slowly is of too long ago."""

_FAILED_CALLS = 30
"""A sample that spent so many calls on steps whose stages did not converge by secants goes on by GMRES."""


class KrylovSpaces:
    """The Krylov space of every sample, with which GMRES solves (I − g ∂N/∂u) Δ = r for the correction Δ of a stage.

    The products B p of its directions with B = ∂N/∂u are difference quotients, so f may be anything. They contain
    neither h nor λ. A space thus serves many stages and steps, as a Jacobian does: a correction first uses what the
    space knows, and then extends it until the linear residual is small enough. A sample forgets its space if a step
    converged slowly or not at all.

    Args:
        x: initial states, (N, d).
        possible: whether this solve may use the method.
        increment: the norm of a change of u that counts as small, in units of the error that a stage may have.
    """

    def __init__(self, x: Tensor, possible: bool, increment: float) -> None:
        n, d = x.shape
        self._possible, self._increment = possible, increment
        self._size = max(10, min(_DIRECTIONS, _ENTRIES // (3 * n * d)))
        self._space: KrylovSpace | None = None
        self.used = torch.zeros(n, 1, dtype=torch.bool, device=x.device)
        """The samples that use it, (N, 1)."""
        self._fresh = self.used.clone()  # the space knows nothing of steps before the present one
        self._spent = torch.zeros_like(x[:, :1])
        self._unit = torch.ones_like(x)
        self._g = x[:, :1]

    @property
    def in_use(self) -> bool:
        """Whether any sample uses the method."""
        return self._space is not None

    def begin_step(self, unit: Tensor, g: Tensor) -> None:
        """Prepare for a step.

        Args:
            unit: a correction is multiplied by this before its norm is taken; a norm of 1 is the error that a stage may
                have, (N, d).
            g: the factor of N, (N, 1) or (N, d).
        """
        if self._space is not None:
            self._space.change_matrix(unit / self._unit, g)
        self._unit, self._g = unit, g

    def corrections(
        self, nonlinear: Callable[[Tensor, Tensor], Tensor], u: Tensor, n: Tensor, residual: Tensor, solving: Tensor
    ) -> Tensor:
        """Δ of the samples that use the method and are solving, 0 for the others.

        Args:
            nonlinear: (u, samples) -> N at the times of the stages, (N, d); the call counts for the samples, (N, 1).
            u: the iterates, (N, d).
            n: N there, (N, d).
            residual: r = a + g N(u) − u, (N, d).
            solving: the samples that take part, (N, 1).
        """
        if self._space is None:
            raise AssertionError("no sample uses the method")
        unit, device = self._unit, u.device.type
        autocast = torch.is_autocast_enabled(device)

        def rows(p: Tensor, samples: Tensor) -> Tensor:
            share = self._increment / torch.where(samples, norms(p)[:, None], 1.0)
            with torch.autocast(device, enabled=autocast):  # for f only
                moved = nonlinear(torch.addcmul(u, share, p / unit), samples)
            product = (unit * (moved - n) / share).nan_to_num(0.0, 0.0, 0.0)
            product = torch.where(samples, product, 0.0)
            return torch.cat((torch.addcmul(p, self._g, product, value=-1), p, product), 1)

        with torch.autocast(device, enabled=False):
            b = torch.where(solving & self.used, unit * residual, 0.0).nan_to_num(0.0, 0.0, 0.0)
            target = (_FORCING * norms(b)).clamp(min=_NEGLIGIBLE)
            found, _ = self._space.solve(rows, b, target, 2 * self._size)
        return found / unit

    def record(self, calls: Tensor, converged: Tensor, rate: Tensor) -> Tensor:
        """Learn how a step went.

        Args:
            calls: each sample's calls of f, (N, 1); 0 for samples that took no part.
            converged: whether all stages converged, (N, 1).
            rate: the rate of convergence, (N, 1).

        Returns:
            The samples that should try the same step again, with a new space, (N, 1).
        """
        part = calls > 0
        failed = part & ~converged
        again = failed & self.used & ~self._fresh
        if self._possible:
            self._spent = self._spent + torch.where(failed, calls, 0.0)
            self.used = self.used | (self._spent >= _FAILED_CALLS)
            if self._space is None and bool(self.used.any()):
                self._space = KrylovSpace(self._unit, self._size, 3)
        forgotten = failed | (part & ~self._fresh & (rate > _SLOW))
        if self._space is not None:
            self._space.forget(forgotten)
        self._fresh = (self._fresh & ~part) | forgotten
        return again
