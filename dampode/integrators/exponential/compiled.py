"""Steps under torch.compile."""

from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["compiled_step"]

Step = TypeVar("Step", bound=Callable[..., object])


def compiled_step(step: Step) -> Step:
    """A step under torch.compile. Solves should share it, and with it the forms that are already compiled."""
    # else an attribute that f changes in every call, such as a counter, would be new code in every call
    counting = torch._dynamo.config.patch(allow_unspec_int_on_nn_module=True)
    compiled: Step = counting(torch.compile(step))
    return compiled
