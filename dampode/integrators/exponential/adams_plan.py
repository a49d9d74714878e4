"""What the host computes for a step of the exponential Adams method, and how it gets to the device."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dampode.integrators.exponential.adams_step import Plan, StepWeights
from dampode.integrators.exponential.multistep_weights import ROWS, Nodes, NodeWeights, moments, node_weights
from dampode.integrators.splitting import Splitting

__all__ = ["PlannedStep", "SampleDamping", "plan_step", "sample_damping"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SampleDamping = Floats | None
"""λ of every sample, (N,), where it is a constant of the whole sample without gradient; None elsewhere."""


class PlannedStep(NamedTuple):
    """A step as the host knows it."""

    nodes: Nodes
    weights: NodeWeights
    h: Floats
    """The signed length, (N,)."""
    damping: SampleDamping
    plan: Plan

    def inside(self, sample: NDArray[np.int64], theta: Floats, like: Tensor) -> Plan:
        """The weights for states inside the step, in a plan of M rows.

        Args:
            sample: the sample of each state, (M,).
            theta: its share of the step, (M,).
            like: a state.
        """
        weights, h, order = self.weights.of(sample), self.h[sample], self.nodes.order[sample]
        damping = None if self.damping is None else self.damping[sample]
        return _plan(weights, order, h, theta, damping, theta, like)

    def basis(self, like: Tensor) -> Tensor:
        """The weights as combinations of the moments, (N, R + 1, P), like a state."""
        return torch.from_numpy(_basis(self.weights, self.nodes.order, self.h)).to(like)


def sample_damping(splitting: Splitting, x: Tensor) -> SampleDamping:
    """λ of every sample on the host, if that is all that the weights need to know of it.

    Args:
        splitting: holds λ.
        x: a state, (N, *S).
    """
    lam = splitting.lam
    inner = lam.shape[1:] if lam.ndim == x.ndim else lam.shape
    if not splitting.constant or lam.requires_grad or any(n > 1 for n in inner):
        return None
    return lam.detach().to("cpu", torch.float64).reshape(-1).expand(len(x)).numpy()


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
    weights, h = node_weights(nodes), sign * (nodes.end - nodes.begin)
    plan = _plan(weights, nodes.order, h, time, damping, None, like)
    if second.any():
        shape = (-1, *[1] * (like.ndim - 1))
        masks = (torch.from_numpy(mask).to(like.device).reshape(shape) for mask in (second, corrects_again))
        plan = plan._replace(second=next(masks), corrects_again=next(masks))
    return PlannedStep(nodes, weights, h, damping, plan)


def _plan(
    weights: NodeWeights,
    order: NDArray[np.int64],
    h: Floats,
    time: Floats,
    damping: SampleDamping,
    theta: Floats | None,
    like: Tensor,
) -> Plan:
    """The plan without masks. All its numbers go to the device in one tensor."""
    points, slots, size = weights.differences.shape
    used = np.arange(points)[:, None] < order
    extrapolation = weights.extrapolation.reshape(size, -1)
    columns: list[Floats] = [time[:, None], h[:, None]]
    if damping is None:
        columns += [_basis(weights, order, h).reshape(size, -1)]
    else:
        columns += _host_weights(weights, order, used, h, damping, theta)
    packed = torch.from_numpy(np.concatenate((*columns, extrapolation), 1)).to(like)
    shape = (size, *[1] * (like.ndim - 1))
    parts = packed.split([1, 1, packed.shape[1] - 2 - extrapolation.shape[1], extrapolation.shape[1]], 1)
    rows = parts[3].reshape(size, len(ROWS), slots)
    given = basis_on_device = None
    if damping is None:
        basis_on_device = parts[2].reshape(size, slots + 1, points)
    else:
        decay, phi1, corrector_weight, past = parts[2].split([1, 1, 1, slots], 1)
        given = StepWeights(
            decay.reshape(shape),
            phi1.reshape(shape),
            corrector_weight.reshape(shape),
            past.reshape(size, slots, *shape[1:]),
        )
    return Plan(parts[0].reshape(shape), parts[1].reshape(shape), rows, given, basis_on_device, None, None)


def _basis(weights: NodeWeights, order: NDArray[np.int64], h: Floats) -> Floats:
    """The weights of the slots and w as combinations of the moments, (N, R + 1, P)."""
    points, _, size = weights.differences.shape
    used = np.arange(points)[:, None] < order
    # contiguous, because bmm multiplies matrices of other strides one by one
    by_slot = np.ascontiguousarray((weights.differences * (used * h)[:, None]).transpose(2, 1, 0))
    newton = np.ascontiguousarray(weights.newton.transpose(2, 0, 1))
    basis = torch.bmm(torch.from_numpy(by_slot), torch.from_numpy(newton)).numpy()
    sample = np.arange(size)
    corrector = weights.newton[order, :, sample] * (h / weights.at_end[order, sample])[:, None]
    return np.concatenate((basis, corrector[:, None]), 1)


def _host_weights(
    weights: NodeWeights, order: NDArray[np.int64], used: Mask, h: Floats, damping: Floats, theta: Floats | None
) -> list[Floats]:
    """e^z, hφ_1, w and the weights of the slots, each (N, ·)."""
    points, _, size = weights.differences.shape
    z = -damping * h if theta is None else -damping * h * theta
    found = np.array(moments(z, points, np))  # (P, N)
    if theta is not None:
        found *= theta ** np.arange(1, points + 1)[:, None]
    mixed = (weights.newton * found).sum(1)  # g_j, (P, N)
    past = (weights.differences * (mixed * (used * h))[:, None]).sum(0)
    sample = np.arange(size)
    corrector = h * mixed[order, sample] / weights.at_end[order, sample]
    return [np.exp(z)[:, None], (h * found[0])[:, None], corrector[:, None], past.T]
