"""Steps under torch.compile."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from dampode._precision import rounds_products

__all__ = ["compiled_step"]

Step = TypeVar("Step", bound=Callable[..., object])


def compiled_step(step: Step) -> Step:
    """A step under torch.compile. All solves share it, and with it the forms that are already compiled."""
    compiled: Step = _compiled(step)
    return compiled


@functools.cache
def _compiled(step: Callable[..., object]) -> Any:
    """The step compiled, the same object for the same step."""
    # else an attribute that f changes in every call, such as a counter, would be new code in every call; and a step has
    # more than eight forms: with and without gradients, a second evaluation, a first step
    patched = torch._dynamo.config.patch(allow_unspec_int_on_nn_module=True, recompile_limit=64)
    torch.compiler.assume_constant_result(rounds_products)  # here, because it imports the compiler
    return patched(torch.compile(step))
