"""Newton's method for the stages: Jacobians by finite differences, when to take one, and the matrices to solve with."""

from collections.abc import Callable

import torch
from torch import Tensor

from dampode.integrators.implicit.tableau import GAMMA
from dampode.integrators.tolerance import Tolerance

__all__ = ["Jacobians", "finite_differences"]

_AT_ONCE = 32
"""A state of at most so many numbers has a Jacobian from its first step on."""

_LARGEST = 1024
"""A state of more numbers has none."""

_ENTRIES = 2**25
"""All Jacobians of a batch have at most so many entries; else there are none."""

_NEWTON_CALLS = 6
"""A step by Newton's method whose stages converge well makes at most so many calls of f."""

_SECANT_CALLS = 15
"""The same for a step by secants."""


def finite_differences(nonlinear: Callable[[Tensor], Tensor], x: Tensor, tol: Tolerance) -> Tensor:
    """∂N/∂x of every sample by forward differences. It takes d + 1 calls of N, which may be any function.

    The increment of x_j is ten tolerances of x_j, or √ε |x_j| if this is more. Over a smaller one, N changes less
    compared with its rounding errors; and f that takes part in a conserved sum would lose it to them. Increments are
    powers of 2, so that dividing by them does not round. They lead away from 0, because N may be undefined behind 0.

    Args:
        nonlinear: N at one time, (N, d) -> (N, d).
        x: the states, (N, d).
        tol: tolerance of a step. It says which changes of x are small.

    Returns:
        (N, d, d). Entries that are not finite are 0.

    Source: Hindmarsh et al. 2005, ACM TOMS 31 (the difference quotients of CVODE).
    """
    n, d = nonlinear(x), x.shape[1]
    size = torch.maximum(torch.finfo(x.dtype).eps ** 0.5 * x.abs(), tol.allowed(x.abs(), 10))
    power = torch.ldexp(torch.ones_like(x), torch.frexp(size).exponent)
    increment = torch.where(x < 0, -power, power)
    jacobian = x.new_empty(len(x), d, d)
    for j in range(d):
        moved = x.clone()
        moved[:, j] += increment[:, j]
        jacobian[:, :, j] = (nonlinear(moved) - n) / (moved[:, j] - x[:, j])[:, None]
    return jacobian.nan_to_num(0.0, 0.0, 0.0)


class Jacobians:
    """∂F/∂x of the samples that solve their stages by Newton's method.

    A Jacobian serves many steps. A sample gets a new one once it has spent as many calls on slow convergence as the
    Jacobian costs, so that both together are at most twice what the best choice would have cost. It also gets a new one
    if a step did not converge and its Jacobian is older than the step. Every sample decides for itself.

    Args:
        x: initial states, (N, d).
    """

    def __init__(self, x: Tensor) -> None:
        n, d = x.shape
        self.possible = d <= _LARGEST and n * d * d <= _ENTRIES
        """Whether this solve may take Jacobians."""
        self._jacobian: Tensor | None = None
        self.known = torch.zeros(n, 1, dtype=torch.bool, device=x.device)
        """The samples that have a Jacobian, (N, 1)."""
        self.all_known = False
        """Whether all samples have one."""
        self._current = self.known.clone()  # the Jacobian is of the present state
        self._price = d + 1.0
        self._spent = x.new_full((n, 1), self._price if d <= _AT_ONCE else 0.0)

    def wanted(self, active: Tensor) -> Tensor:
        """The samples among the ``active`` ones, (N, 1), that need a new Jacobian before their next step."""
        return active & (self._spent >= self._price) if self.possible else torch.zeros_like(active)

    def update(self, jacobian: Tensor, samples: Tensor) -> None:
        """Give some samples, (N, 1), the Jacobian of their present state.

        Args:
            jacobian: ∂F/∂x, (N, d, d).
            samples: which of them to take.
        """
        old = torch.zeros_like(jacobian) if self._jacobian is None else self._jacobian
        self._jacobian = torch.where(samples[:, :, None], jacobian, old)
        self.known, self._current = self.known | samples, self._current | samples
        self.all_known = bool(self.known.all())
        self._spent = self._spent.masked_fill(samples, 0.0)

    def inverse(self, h: Tensor, solving: Tensor) -> Tensor | None:
        """(I − hγ ∂F/∂x)^{-1} of the samples that are solving and have a Jacobian; None where no sample has one.

        Args:
            h: the signed step, (N, 1), in x's dtype.
            solving: the samples that take part, (N, 1).

        Returns:
            (N, d, d), 0 for the other samples.
        """
        if self._jacobian is None:
            return None
        inverse = torch.zeros_like(self._jacobian)
        chosen = (self.known & solving)[:, 0]
        matrix = -GAMMA * h[chosen, :, None] * self._jacobian[chosen]
        matrix.diagonal(0, 1, 2).add_(1)
        inverse[chosen] = torch.linalg.inv_ex(matrix)[0]
        return inverse

    def record(self, calls: Tensor, converged: Tensor, finite: Tensor) -> Tensor:
        """Learn what a step cost.

        Args:
            calls: each sample's calls of f, (N, 1); 0 for samples that took no part.
            converged: whether all stages converged, (N, 1).
            finite: whether f was finite, (N, 1).

        Returns:
            The samples that should try the same step again, with a new Jacobian, (N, 1).
        """
        usual = torch.where(self.known, _NEWTON_CALLS, _SECANT_CALLS)
        failed = (calls > 0) & ~converged
        self._spent = self._spent + torch.where(failed, calls, (calls - usual).clamp(min=0))
        again = failed & finite & self.known & ~self._current
        self._spent = self._spent.masked_fill(again, self._price)
        return again

    def move(self, samples: Tensor) -> None:
        """Some samples, (N, 1), have a new state."""
        self._current = self._current & ~samples
