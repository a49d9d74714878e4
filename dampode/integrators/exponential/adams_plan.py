"""What the host computes for a step of the exponential Adams method, and how it gets to the device."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.exponential.adams_step import Plan, StepWeights, step_weights
from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, fill_basis, fill_weights, positions
from dampode.integrators.exponential.order_choice import Report
from dampode.integrators.splitting import Splitting

__all__ = ["PlannedStep", "SampleDamping", "plan_step", "sample_damping"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
SampleDamping = Floats | None
"""λ of every sample, (N,), where it is a constant of the whole sample without gradient; None elsewhere."""


class PlannedStep(NamedTuple):
    """A step as the host knows it."""

    nodes: Nodes
    positions: Floats
    """Of the nodes, (N, R − 1)."""
    sign: float
    """Of the direction in time."""
    damping: SampleDamping
    own: Floats
    """e^z, hφ_1 and w, (3, N), if the host knows λ."""
    plan: Plan

    def inside(self, sample: Integers, theta: Floats, lam: Tensor, like: Tensor) -> tuple[StepWeights, Tensor]:
        """The weights for M states inside the step, and those of the values in the slots, (M, R, ...).

        Args:
            sample: the sample of each state, (M,).
            theta: its share of the step, (M,).
            lam: its λ_n, or one for all of them.
            like: a state.
        """
        size, slots, ones = len(sample), self.nodes.times.shape[1], [1] * (like.ndim - 1)
        if self.damping is not None:
            numbers = _Numbers((size, 1, slots), (3, size))
            fill_weights(self.nodes, self.positions, self.sign, self.damping, sample, theta, *numbers.arrays)
            past, own = numbers.tensors(like)
            return StepWeights(*own.reshape(3, size, *ones).unbind()), past.reshape(size, slots, *ones)
        numbers = _Numbers((size, slots + 1, slots - 1), (size, 0, slots), (2, size))
        basis, none, columns = numbers.arrays
        fill_basis(self.nodes, self.positions, self.sign, sample, basis, none)
        columns[0], columns[1] = theta, self.sign * (self.nodes.end - self.nodes.begin)[sample]
        on_device, _, columns_on_device = numbers.tensors(like)
        share, h = columns_on_device.reshape(2, size, *ones).unbind()
        return step_weights(-h * lam, h, on_device, share)

    def basis(self, like: Tensor) -> Tensor:
        """The weights as combinations of the moments, (N, R + 1, R − 1), like a state."""
        size, slots = self.nodes.times.shape
        basis = np.empty((size, slots + 1, slots - 1))
        fill_basis(self.nodes, self.positions, self.sign, np.arange(size), basis, np.empty((size, 0, slots)))
        return torch.from_numpy(basis).to(like)

    def report(self, found: Floats) -> Report:
        """What the step tells the control.

        Args:
            found: the report of the step as the device wrote it, (N, ·).
        """
        if self.damping is None:
            return Report(found[:, :4], *(np.ascontiguousarray(column) for column in found[:, 4:8].T))
        # the device knows the norms of Δ_j alone
        _, phi1, weight = np.abs(self.own)
        changed = found[:, 4] if found.shape[1] > 4 else np.zeros(len(found))
        return Report(found[:, :4] * phi1[:, None], found[:, 0] * weight, changed * weight, weight, phi1)


def sample_damping(splitting: Splitting, x: Tensor) -> SampleDamping:
    """λ of every sample on the host, if that is all that the weights need to know of it.

    Args:
        splitting: holds λ.
        x: a state, (N, *S).
    """
    lam = splitting.lam
    inner = lam.shape[1:] if lam.ndim == x.ndim else lam.shape
    if not splitting.constant or lam.requires_grad or lam.is_complex() or any(n > 1 for n in inner):
        return None
    values = lam.detach().to("cpu", torch.float64).reshape(-1).expand(len(x))
    return np.ascontiguousarray(values.numpy())


def plan_step(
    nodes: Nodes, time: Floats, sign: float, damping: SampleDamping, second: Mask, corrects_again: Mask, like: Tensor
) -> PlannedStep:
    """The plan of a step.

    Args:
        nodes: where the values lie, and the ends of the step.
        time: the time t after the step, (N,).
        sign: of the direction in time.
        damping: λ, if the host knows it.
        second: the samples that make their second evaluation.
        corrects_again: whether the state is corrected with it.
        like: a state, (N, *S).
    """
    size, slots = nodes.times.shape
    every, ones, found = np.arange(size), [1] * (like.ndim - 1), positions(nodes)
    if damping is not None:
        numbers = _Numbers((size, 1 + len(ROWS), slots), (5, size))
        past, columns = numbers.arrays
        fill_weights(nodes, found, sign, damping, every, np.ones(size), past, columns[2:])
    else:
        numbers = _Numbers((size, len(ROWS), slots), (2, size), (size, slots + 1, slots - 1))
        past, columns, basis = numbers.arrays
        fill_basis(nodes, found, sign, every, basis, past)
    columns[0], columns[1] = time, sign * (nodes.end - nodes.begin)
    past_on_device, columns_on_device, *rest = numbers.tensors(like)
    begin, h, *own = columns_on_device.real.reshape(-1, size, *ones).unbind()
    weights = StepWeights(*own) if own else None
    plan = Plan(begin, h, past_on_device, weights, rest[0] if rest else None, None, None)
    if second.any():
        masks = (torch.from_numpy(mask).to(like.device).reshape(-1, *ones) for mask in (second, corrects_again))
        plan = plan._replace(second=next(masks), corrects_again=next(masks))
    return PlannedStep(nodes, found, sign, damping, columns[2:], plan)


class _Numbers:
    """Float64 arrays on the host that go to the device in one copy.

    Args:
        shapes: their shapes.
    """

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self._shapes, self._ends = shapes, [0]
        for shape in shapes:
            self._ends.append(self._ends[-1] + math.prod(shape))
        self._flat = np.empty(self._ends[-1])
        self.arrays = [self._flat[a:b].reshape(shape) for a, b, shape in self._parts()]

    def tensors(self, like: Tensor) -> list[Tensor]:
        """The arrays on the device and in the dtype of a state."""
        flat = torch.from_numpy(self._flat).to(like)
        return [flat[a:b].view(shape) for a, b, shape in self._parts()]

    def _parts(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Where each array begins and ends, and its shape."""
        return zip(self._ends, self._ends[1:], self._shapes, strict=False)
