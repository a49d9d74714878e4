"""What the adaptive exponential integrators share: the backward pass may recompute their accepted steps."""

from typing import ClassVar

from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.dense_solution import require_no_dense
from dampode.integrators.jumps import Jumps
from dampode.integrators.recompute import require_segments
from dampode.integrators.solution import Solution
from dampode.integrators.to_tolerance import TolerantIntegrator

__all__ = ["RecomputingIntegrator"]


class RecomputingIntegrator(TolerantIntegrator):
    """An integrator whose accepted steps are taken again in ``recompute`` segments; None keeps what they computed."""

    exact_damping: ClassVar[bool] = True
    recompute: int | None

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_segments(self.recompute)

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """The states with statistics and a status per sample."""
        if self.recompute is not None:
            require_no_dense(dense, "recompute=", "it keeps every step, which recompute= avoids: leave one of them out")
        return super().solve(func, x, times, jumps, dense)

    @property
    def _replays(self) -> bool:
        """Whether the accepted steps are taken again in segments."""
        return self.recompute is not None
