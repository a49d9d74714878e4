"""What the host computes for a step of the exponential Adams method, and how it gets to the device."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.exponential.adams_step import Plan, StepWeights, step_weights
from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, fill_basis, fill_weights, positions
from dampode.integrators.exponential.order_choice import Report, weighted
from dampode.integrators.shifts import per_sample
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
            past, own = np.empty((size, 1, slots)), np.empty((3, size))
            fill_weights(self.nodes, self.positions, self.sign, self.damping, sample, theta, past, own)
            return StepWeights(*_per_sample(own, like)), _like(past, like).reshape(size, slots, *ones)
        basis = np.empty((size, slots + 1, slots - 1))
        fill_basis(self.nodes, self.positions, self.sign, sample, basis, np.empty((size, 0, slots)))
        share, h = _per_sample(np.stack((theta, self.sign * (self.nodes.end - self.nodes.begin)[sample])), like)
        return step_weights(-h * lam, h, _like(basis, like), share)

    def basis(self, like: Tensor) -> Tensor:
        """The weights as combinations of the moments, (N, R + 1, R − 1), like a state."""
        size, slots = self.nodes.times.shape
        basis = np.empty((size, slots + 1, slots - 1))
        fill_basis(self.nodes, self.positions, self.sign, np.arange(size), basis, np.empty((size, 0, slots)))
        return _like(basis, like)

    def report(self, found: Floats) -> Report:
        """What the step tells the control.

        Args:
            found: the report of the step as the device wrote it, (N, ·).
        """
        if self.damping is None:
            return Report(found[:, :4], *(np.ascontiguousarray(column) for column in found[:, 4:8].T))
        # the device knows the norms of Δ_j alone
        return Report(*weighted(found, self.own))


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
    (size, slots), found, basis = nodes.times.shape, positions(nodes), None
    past, columns = np.empty((size, 1 + len(ROWS), slots)), np.empty((5, size))
    if damping is not None:
        fill_weights(nodes, found, sign, damping, np.arange(size), np.ones(size), past, columns[2:])
    else:
        past, columns, basis = past[:, 1:].copy(), columns[:2], np.empty((size, slots + 1, slots - 1))
        fill_basis(nodes, found, sign, np.arange(size), basis, past)
    columns[0], columns[1] = time, sign * (nodes.end - nodes.begin)
    after, h, *own = _per_sample(columns, like)
    masks: list[Tensor | None] = [None, None]
    if second.any():
        masks = [per_sample(torch.from_numpy(mask).to(like.device), like) for mask in (second, corrects_again)]
    weights = None if basis is not None else StepWeights(*own)
    plan = Plan(after, h, _like(past, like), weights, None if basis is None else _like(basis, like), *masks)
    return PlannedStep(nodes, found, sign, damping, columns[2:], plan)


def _like(values: Floats, like: Tensor) -> Tensor:
    """An array on the device and in the dtype of a state."""
    return torch.from_numpy(values).to(like)


def _per_sample(rows: Floats, like: Tensor) -> tuple[Tensor, ...]:
    """Rows of numbers per sample, (K, N), as real tensors that broadcast to a state, (N, 1, ..., 1)."""
    return _like(rows, like.real).reshape(*rows.shape, *[1] * (like.ndim - 1)).unbind()
