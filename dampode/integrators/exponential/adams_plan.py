"""What the host computes for a step of the exponential Adams method, and how it gets to the device."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.exponential.adams_step import Plan, StepWeights
from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, fill_basis, fill_weights, positions
from dampode.integrators.exponential.order_choice import Report
from dampode.integrators.splitting import Splitting

__all__ = ["PlannedStep", "SampleDamping", "plan_step", "sample_damping"]

Floats = NDArray[np.float64]
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
    rows: Floats
    """The numbers of ``plan``, a row per sample."""
    plan: Plan

    def inside(self, sample: NDArray[np.int64], theta: Floats, like: Tensor) -> Plan:
        """The weights for states inside the step, in a plan of M rows, whose times are the shares θ.

        Args:
            sample: the sample of each state, (M,).
            theta: its share of the step, (M,).
            like: a state.
        """
        rows = _rows(self.nodes, self.positions, self.sign, theta, self.damping, sample, theta)
        return _plan(rows, self.nodes, self.damping is not None, like)

    def basis(self, like: Tensor) -> Tensor:
        """The weights as combinations of the moments, (N, R + 1, R − 1), like a state."""
        size, slots = self.nodes.times.shape
        basis, extrapolation = np.empty((size, slots + 1, slots - 1)), np.empty((size, len(ROWS), slots))
        fill_basis(self.nodes, self.positions, self.sign, np.arange(size), basis, extrapolation)
        return torch.from_numpy(basis).to(like)

    def report(self, found: Floats) -> Report:
        """What the step tells the control.

        Args:
            found: the report of the step as the device wrote it, (N, ·).
        """
        if self.damping is None:
            return Report(found[:, :4], *(np.ascontiguousarray(column) for column in found[:, 4:8].T))
        # the device knows the norms of Δ_j alone
        phi1, weight = np.abs(self.rows[:, 3]), np.abs(self.rows[:, 4])
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
    found = positions(nodes)
    rows = _rows(nodes, found, sign, time, damping, np.arange(len(time)), np.ones(len(time)))
    plan = _plan(rows, nodes, damping is not None, like)
    if second.any():
        shape = (-1, *[1] * (like.ndim - 1))
        masks = (torch.from_numpy(mask).to(like.device).reshape(shape) for mask in (second, corrects_again))
        plan = plan._replace(second=next(masks), corrects_again=next(masks))
    return PlannedStep(nodes, found, sign, damping, rows, plan)


def _rows(
    nodes: Nodes,
    s: Floats,
    sign: float,
    time: Floats,
    damping: SampleDamping,
    sample: NDArray[np.int64],
    theta: Floats,
) -> Floats:
    """All numbers of a plan, a row for each of the M states: t, h, the weights or their basis, the extrapolation."""
    slots = nodes.times.shape[1]
    weights = 3 + slots if damping is not None else (slots + 1) * (slots - 1)
    rows = np.empty((len(sample), 2 + weights + len(ROWS) * slots))
    rows[:, 0], rows[:, 1] = time, sign * (nodes.end - nodes.begin)[sample]
    if damping is not None:
        fill_weights(nodes, s, sign, damping, sample, theta, rows)
    else:
        basis = np.empty((len(sample), slots + 1, slots - 1))
        extrapolation = np.empty((len(sample), len(ROWS), slots))
        fill_basis(nodes, s, sign, sample, basis, extrapolation)
        rows[:, 2 : 2 + weights] = basis.reshape(len(sample), -1)
        rows[:, 2 + weights :] = extrapolation.reshape(len(sample), -1)
    return rows


def _plan(rows: Floats, nodes: Nodes, uniform: bool, like: Tensor) -> Plan:
    """The plan without masks. All its numbers go to the device in one tensor.

    Args:
        rows: the numbers, (M, ·).
        nodes: of the step.
        uniform: whether λ is one number per sample, so that the rows hold the weights themselves.
        like: a state.
    """
    size, slots, ones = len(rows), nodes.times.shape[1], [1] * (like.ndim - 1)
    packed = torch.from_numpy(rows).to(like)
    extrapolation = packed[:, -len(ROWS) * slots :].reshape(size, len(ROWS), slots)
    if not uniform:
        time, h = packed[:, :2].real.reshape(size, 2, *ones).unbind(1)
        basis = packed[:, 2 : -len(ROWS) * slots].reshape(size, slots + 1, slots - 1)
        return Plan(time, h, extrapolation, None, basis, None, None)
    time, h, decay, phi1, corrector = packed[:, :5].reshape(size, 5, *ones).unbind(1)
    past = packed[:, 5 : 5 + slots].reshape(size, slots, *ones)
    return Plan(time, h, extrapolation, StepWeights(decay, phi1, corrector, past), None, None, None)
