"""The number of calls of f that each sample of an adaptive solve needed."""

import torch
from torch import Tensor

__all__ = ["CallCounter"]


class CallCounter:
    """Counts calls of f per sample. `Splitting` reports every call; the solve says which samples need it.

    f always sees the whole batch. A call counts for the samples that are still being solved.

    Args:
        x: a state with N samples, (N, *S).
    """

    def __init__(self, x: Tensor) -> None:
        self.nfe = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        """The calls so far, (N,)."""
        self.active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        """The samples that the next calls count for, (N,)."""

    def add(self) -> None:
        """Count one call."""
        self.nfe += self.active
