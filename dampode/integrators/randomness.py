"""Calls of an f once more at the same place, to see whether it is random."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["repeats"]

Value = TypeVar("Value")

_MOST = 16
"""Calls of an f that draws random numbers. A dropout of one number repeats by chance in every second call."""


def repeats(call: Callable[[], Value], x: Tensor) -> Iterator[Value]:
    """The values of a call that is made again: once, or 16 times if it draws random numbers of torch.

    Args:
        call: the call.
        x: a tensor on the device that it uses.
    """
    for _ in range(_MOST):
        before = _random_state(x)
        yield call()
        if torch.equal(_random_state(x), before):
            return


def _random_state(x: Tensor) -> Tensor:
    """The state of the random number generators of the CPU and of x's GPU. Every draw changes it."""
    on_cpu = torch.get_rng_state()
    return torch.cat((on_cpu, torch.cuda.get_rng_state(x.device))) if x.is_cuda else on_cpu
