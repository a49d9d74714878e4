"""The weights of a multistep step with variable nodes: moments, divided differences, Newton polynomials."""

import math
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["MAX_ORDER", "ROWS", "NodeWeights", "Nodes", "moments", "node_weights"]

Array = TypeVar("Array", NDArray[np.float64], Tensor)
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MAX_ORDER = 8
"""The largest order of the predictor."""

ROWS = (0, -1, 1, 2)
"""The differences that a step reports: Δ_j for j = k + these, with k the order of its predictor."""

_TOP = MAX_ORDER + 1
_SERIES = [math.factorial(_TOP) / math.factorial(n + _TOP + 1) for n in range(24)]
"""Coefficients of the power series of the moment M_9. For |z| < 4 the next term is below 1e-17 of the sum."""


def moments(z: Array, count: int, xp: ModuleType) -> list[Array]:
    """M_m(z) = ∫_0^1 e^{z(1−s)} s^m ds = m! φ_{m+1}(z) for m = 0, ..., count − 1, elementwise.

    For |z| < 4 the last moment is a power series, and M_{m−1} = (1 + z M_m) / m leads down from it. Elsewhere
    M_m = (m M_{m−1} − 1) / z leads up from M_0 = (e^z − 1) / z. Each of the two gets a safe argument where it is not
    used, so that automatic differentiation never meets 0/0.

    Args:
        z: −λh, of any shape.
        count: number of moments, at most 9.
        xp: the module of z's kind, ``numpy`` or ``torch``.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """
    near = abs(z) < 4.0
    small, large = xp.where(near, z, 0.0), xp.where(near, -4.0, z)
    series: Any = _SERIES[-1]
    for coefficient in _SERIES[-2::-1]:
        series = series * small + coefficient
    falling = []
    for m in range(_TOP, 0, -1):
        series = (small * series + 1.0) / m
        falling.append(series)
    rising, found = xp.expm1(large) / large, []
    for m in range(count):
        if m > 0:
            rising = (m * rising - 1.0) / large
        found.append(xp.where(near, falling[_TOP - 1 - m], rising))
    return found


class Nodes(NamedTuple):
    """Where the values of N lie that a step uses, and of which order it is. Arrays per sample, (N,).

    The values lie in a ring of R slots. The newest is in the slot ``newest``, the one before it in the slot before.
    """

    times: Floats
    """τ of the value in every slot, (R, N)."""
    newest: Integers
    values: Integers
    """Number of values n, 1 to R − 1."""
    order: Integers
    """Order of the predictor, 1 to n."""
    begin: Floats
    """τ before the step. The newest value is taken there."""
    end: Floats
    """τ after it."""


class NodeWeights(NamedTuple):
    """What the nodes alone determine, in units of the step.

    Node i is at s_i = (τ_i − τ)/h <= 0, and q_j(s) = Π_{i<j} (s − s_i). P = R − 1 is the number of usable values.
    """

    nodes: Floats
    """s_i, newest first, (P, N); of no meaning where there is no value."""
    differences: Floats
    """1 / Π_{m<=j, m≠i} (s_i − s_m): the divided difference c_j of the values, from slot to slot, (P, R, N)."""
    newton: Floats
    """Coefficient of s^m in q_j(s), all >= 0, (P, P, N)."""
    at_end: Floats
    """q_j(1), (P + 1, N)."""
    extrapolation: Floats
    """For every j = k + `ROWS`: the value at s = 1 of the polynomial through the j newest values, (N, 4, R)."""
    known: NDArray[np.bool_]
    """Whether there are j values, (4, N)."""

    def of(self, sample: NDArray[np.int64]) -> "NodeWeights":
        """The weights of given samples, (M,)."""
        nodes, differences, newton, at_end = (
            values[..., sample] for values in (self.nodes, self.differences, self.newton, self.at_end)
        )
        return NodeWeights(nodes, differences, newton, at_end, self.extrapolation[sample], self.known[:, sample])


def node_weights(nodes: Nodes) -> NodeWeights:
    """The weights of a step.

    Source: the Newton form of the interpolating polynomial; Shampine & Gordon 1975, Chap. 5.
    """
    slots, size = nodes.times.shape
    points, sample = slots - 1, np.arange(size)
    numbers = np.arange(slots)[:, None]
    age = (nodes.newest - numbers) % slots
    h = nodes.end - nodes.begin
    s = (nodes.times - nodes.begin) / np.where(h > 0, h, 1.0)
    s = np.where(age < nodes.values, s, -age)
    by_age = s[(nodes.newest - numbers[:points]) % slots, sample]  # (P, N)
    apart = s - by_age[:, None]
    apart[apart == 0] = 1.0  # a node and itself
    used = age <= numbers[:points, None]
    differences = np.where(used, 1.0 / np.cumprod(apart, axis=0), 0.0)
    newton = np.zeros((points, points, size))
    newton[0, 0] = 1.0
    for j in range(points - 1):
        newton[j + 1] = newton[j] * -by_age[j]
        newton[j + 1, 1:] += newton[j, :-1]
    at_end = np.ones((points + 1, size))
    np.cumprod(1.0 - by_age, axis=0, out=at_end[1:])
    index = nodes.order + np.array(ROWS)[:, None]  # j, (4, N)
    known = (index >= 1) & (index <= nodes.values)
    safe = np.where(known, index, 1)
    scale = np.where(known, at_end[safe, sample], 0.0)
    through = differences[safe - 1, :, sample] * scale[:, :, None] / (1.0 - s.T)
    return NodeWeights(by_age, differences, newton, at_end, through.transpose(1, 0, 2), known)
