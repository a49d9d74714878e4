"""The weights of a multistep step with variable nodes, computed on the host for each sample."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dampode.integrators.exponential.moments import MAX_ORDER, SERIES
from dampode.integrators.exponential.numba_loop import compiled_loop

__all__ = ["ROWS", "Nodes", "fill_basis", "fill_weights", "positions"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ROWS = (0, -1, 1, 2)
"""The differences that a step reports: Δ_j for j = k + these, with k the order of its predictor."""

_TOP = MAX_ORDER + 1
_SERIES = np.array(SERIES)


class Nodes(NamedTuple):
    """Where the values of N lie that a step uses, and of which order it is. Arrays per sample, (N,).

    The values lie in a ring of R slots. The newest is in the slot ``newest``, the one before it in the slot before.
    """

    times: Floats
    """τ of the value in every slot, (N, R)."""
    newest: Integers
    values: Integers
    """Number of values n, 1 to R − 1."""
    order: Integers
    """Order of the predictor, 1 to n."""
    begin: Floats
    """τ before the step. The newest value is taken there."""
    end: Floats
    """τ after it."""


@compiled_loop
def positions(nodes: Nodes) -> Floats:
    """The nodes in units of the step, s_i = (τ_i − τ)/h <= 0, newest first, (N, R − 1).

    Where there is no value, s_i = −i. A step of length 0 counts as one of length 1.
    """
    size, slots = nodes.times.shape
    found = np.empty((size, slots - 1))
    for n in range(size):
        h = nodes.end[n] - nodes.begin[n]
        for i in range(slots - 1):
            time = nodes.times[n, (nodes.newest[n] - i) % slots]
            found[n, i] = (time - nodes.begin[n]) / (h if h > 0 else 1.0) if i < nodes.values[n] else -float(i)
    return found


@compiled_loop
def _moments(z: float, count: int, found: Floats) -> None:
    """`moments` of one number, written into ``found``."""
    if abs(z) < 4.0:
        series = 0.0
        for n in range(len(_SERIES) - 1, -1, -1):
            series = series * z + _SERIES[n]
        for m in range(_TOP, 0, -1):
            series = (z * series + 1.0) / m
            if m <= count:
                found[m - 1] = series
    else:
        found[0] = math.expm1(z) / z
        for m in range(1, count):
            found[m] = (m * found[m - 1] - 1.0) / z


@compiled_loop
def _newton(s: Floats, degree: int, newton: Floats) -> None:
    """The coefficients of s^m in q_j(s) = Π_{i<j} (s − s_i), all >= 0, written as ``newton[j, m]`` for j <= degree."""
    newton[0, 0] = 1.0
    for j in range(degree):
        newton[j + 1, 0] = -s[j] * newton[j, 0]
        for m in range(1, j + 1):
            newton[j + 1, m] = newton[j, m - 1] - s[j] * newton[j, m]
        newton[j + 1, j + 1] = newton[j, j]


@compiled_loop
def _differences(s: Floats, count: int, differences: Floats) -> None:
    """1 / Π_{m<=j, m≠i} (s_i − s_m): the divided difference c_j of the values, written into ``differences[j, i]``."""
    for i in range(count):
        product = 1.0
        for m in range(i):
            product *= s[i] - s[m]
        differences[i, i] = 1.0 / product
        for j in range(i + 1, count):
            product *= s[i] - s[j]
            differences[j, i] = 1.0 / product


@compiled_loop
def _extrapolation(
    s: Floats, differences: Floats, at_end: Floats, order: int, values: int, newest: int, found: Floats
) -> None:
    """For every j = k + `ROWS`: the value at s = 1 of the polynomial through the j newest values, written by slot.

    No row of ``found`` asks for nothing.
    """
    slots = found.shape[1]
    found[:] = 0.0
    for row in range(len(found)):
        j = order + ROWS[row]
        if 1 <= j <= values:
            for i in range(j):
                found[row, (newest - i) % slots] = at_end[j] * differences[j - 1, i] / (1.0 - s[i])


@compiled_loop
def _end_values(s: Floats, at_end: Floats) -> None:
    """q_j(1) for every j, written into ``at_end``."""
    at_end[0] = 1.0
    for j in range(len(s)):
        at_end[j + 1] = at_end[j] * (1.0 - s[j])


@compiled_loop
def fill_weights(
    nodes: Nodes, s: Floats, sign: float, damping: Floats, sample: Integers, theta: Floats, past: Floats, own: Floats
) -> None:
    """The weights of a step, or of states inside it, where λ is one number per sample.

    Args:
        nodes: where the values lie.
        s: their positions, (N, R − 1).
        sign: of the direction in time.
        damping: λ, (N,).
        sample: the sample of each row, (M,).
        theta: the share of the step of each row, 1 at its end, (M,).
        past: takes the weights of the R slots and, where it has rows for it, the extrapolation of `ROWS`,
            (M, 1 or 5, R).
        own: takes e^z, hφ_1 and w, (3, M).

    Source: the Newton form of the interpolating polynomial; Shampine & Gordon 1975, Chap. 5.
    """
    slots = nodes.times.shape[1]
    newton, differences = np.zeros((slots, slots)), np.empty((slots - 1, slots - 1))
    at_end, found, mixed = np.empty(slots), np.empty(slots), np.empty(slots)
    for row in range(len(sample)):
        n = sample[row]
        order, values, newest = nodes.order[n], nodes.values[n], nodes.newest[n]
        h = sign * (nodes.end[n] - nodes.begin[n])
        z = -damping[n] * h * theta[row]
        _newton(s[n], order, newton)
        _differences(s[n], min(values, order + 2) if past.shape[1] > 1 else order, differences)
        _end_values(s[n], at_end)
        _moments(z, order + 1, found)
        power = 1.0
        for m in range(order + 1):
            power *= theta[row]
            found[m] *= power
        for j in range(order + 1):
            mixed[j] = 0.0  # g_j
            for m in range(j + 1):
                mixed[j] += newton[j, m] * found[m]
        own[0, row], own[1, row], own[2, row] = math.exp(z), h * found[0], h * mixed[order] / at_end[order]
        past[row, 0] = 0.0
        for i in range(order):
            total = 0.0
            for j in range(i, order):
                total += differences[j, i] * mixed[j]
            past[row, 0, (newest - i) % slots] = h * total
        _extrapolation(s[n], differences, at_end, order, values, newest, past[row, 1:])


@compiled_loop
def fill_basis(nodes: Nodes, s: Floats, sign: float, sample: Integers, basis: Floats, extrapolation: Floats) -> None:
    """The weights of a step as combinations of the moments, where λ varies inside samples.

    Args:
        nodes: where the values lie.
        s: their positions, (N, R − 1).
        sign: of the direction in time.
        sample: the sample of each row, (M,).
        basis: takes the weights of the R slots and w as combinations of the moments, (M, R + 1, R − 1).
        extrapolation: takes that of `ROWS`, (M, 4, R), or nothing, (M, 0, R).
    """
    slots = nodes.times.shape[1]
    newton, differences, at_end = np.zeros((slots, slots)), np.empty((slots - 1, slots - 1)), np.empty(slots)
    basis[:] = 0.0
    for row in range(len(sample)):
        n = sample[row]
        order, values, newest = nodes.order[n], nodes.values[n], nodes.newest[n]
        h = sign * (nodes.end[n] - nodes.begin[n])
        _newton(s[n], order, newton)
        _differences(s[n], min(values, order + 2), differences)
        _end_values(s[n], at_end)
        for i in range(order):
            slot = (newest - i) % slots
            for j in range(i, order):
                for m in range(j + 1):
                    basis[row, slot, m] += h * differences[j, i] * newton[j, m]
        for m in range(order + 1):
            basis[row, slots, m] = newton[order, m] * h / at_end[order]
        _extrapolation(s[n], differences, at_end, order, values, newest, extrapolation[row])
