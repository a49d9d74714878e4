"""The moments of the exponential: the integrals that the weights of a multistep step are made of."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["MAX_ORDER", "SERIES", "moments"]

MAX_ORDER = 8
"""The largest order of the predictor."""

_TOP = MAX_ORDER + 1
SERIES = [math.factorial(_TOP) / math.factorial(n + _TOP + 1) for n in range(24)]
"""Coefficients of the power series of the moment M_9. For |z| < 4 the next term is below 1e-17 of the sum."""


def moments(z: Tensor, count: int) -> list[Tensor]:
    """M_m(z) = ∫_0^1 e^{z(1−s)} s^m ds = m! φ_{m+1}(z) for m = 0, ..., count − 1, elementwise.

    For |z| < 4 the last moment is a power series, and M_{m−1} = (1 + z M_m) / m leads down from it. Elsewhere
    M_m = (m M_{m−1} − 1) / z leads up from M_0 = (e^z − 1) / z. Each of the two gets a safe argument where it is not
    used, so that automatic differentiation never meets 0/0.

    Args:
        z: −λh, of any shape.
        count: number of moments, at most 9.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """
    near = abs(z) < 4.0
    small, large = torch.where(near, z, 0.0), torch.where(near, -4.0, z)
    series: Any = SERIES[-1]
    for coefficient in SERIES[-2::-1]:
        series = series * small + coefficient
    falling = []
    for m in range(_TOP, 0, -1):
        series = (small * series + 1.0) / m
        falling.append(series)
    rising, found = torch.expm1(large) / large, []
    for m in range(count):
        if m > 0:
            rising = (m * rising - 1.0) / large
        found.append(torch.where(near, falling[_TOP - 1 - m], rising))
    return found
