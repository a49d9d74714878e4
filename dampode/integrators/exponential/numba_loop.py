"""Loops over the samples of a batch on the host, compiled by Numba."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["compiled_loop"]

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled_loop(loop: Loop) -> Loop:
    """A function of numbers and NumPy arrays under Numba. It is compiled at its first call.

    The compiled code is kept on disk where a folder for it can be written. Numba finds it by the source file alone: a
    compiled loop must call no compiled loop of another file. As in NumPy, division by 0 gives inf or NaN.
    """
    try:
        return cast(Loop, numba.njit(error_model="numpy", nogil=True, cache=True)(loop))
    except RuntimeError:  # no folder can be written
        return cast(Loop, numba.njit(error_model="numpy", nogil=True)(loop))
