"""A GRU whose state decays to a rest state before each step, as one operation over time with its own backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["relaxing_gru"]

_PART = 32
"""Steps that the backward pass prepares at once: memory that stays in the cache costs less than memory that is new."""


def relaxing_gru(
    inputs: Tensor, decay: Tensor, observed: Tensor, rest: Tensor, weight: Tensor, bias: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """States h_k of a GRU with the decay m_k = s_k + w_k (b − s_k) before each update.

    s_k is the state after the last observed step before k. Where step k is observed, h_k = GRU(u_k, m_k), and else
    h_k = m_k. One operation over time needs less memory and fewer calls than T cells; its backward pass has no second
    derivative.

    Args:
        inputs: W_i u + b_i of the gates r, z and n in this order, (T, N, 3H).
        decay: w = 1 − e^{−λΔt} over the time since the last observed step, (T, N, H).
        observed: bool, (T, N).
        rest: b, (H,).
        weight: W_h, (3H, H).
        bias: b_h, (3H,).
        h0: the state before the first step, (N, H).

    Returns:
        h_1 .. h_T, (T, N, H), and the state after the last observed step, (N, H), for a later part.

    Source: Cho et al. 2014; the gates are those of `torch.nn.GRUCell`.
    """
    states, last = _RelaxingGRU.apply(inputs, decay, observed[:, :, None], rest, weight, bias, h0)
    return states, last


class _RelaxingGRU(torch.autograd.Function):
    """The loop over time and its derivative, backpropagation through time."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        decay: Tensor,
        observed: Tensor,
        rest: Tensor,
        weight: Tensor,
        bias: Tensor,
        h0: Tensor,
    ) -> tuple[Tensor, Tensor]:
        size = h0.shape[1]
        transposed = weight.t().contiguous()
        gates, hidden, before, states = (torch.empty_like(like) for like in (inputs, decay, decay, decay))
        product = torch.empty_like(inputs[0])
        g_rz, g_n = product[:, : 2 * size], product[:, 2 * size :]
        # slicing once costs less than slicing in every step
        given = zip(inputs[:, :, : 2 * size], inputs[:, :, 2 * size :], decay, observed, strict=True)
        gate = zip(gates[:, :, : 2 * size], *gates.chunk(3, 2), strict=True)
        everywhere = observed.all(2).all(1).tolist()
        state, starts = h0, []
        for (i, i_n, w, seen), (rz, r, z, n), kept, m, h, all_seen in zip(
            given, gate, hidden, before, states, everywhere, strict=True
        ):
            starts.append(state)
            torch.lerp(state, rest, w, out=m)
            torch.addmm(bias, m, transposed, out=product)
            torch.add(i, g_rz, out=rz).sigmoid_()
            kept.copy_(g_n)
            torch.addcmul(i_n, r, g_n, out=n).tanh_()
            torch.lerp(n, m, z, out=h)
            if all_seen:
                state = h
            else:
                state = torch.where(seen, h, state)
                torch.where(seen, h, m, out=h)
        ctx.save_for_backward(gates, hidden, before, torch.stack(starts), decay, observed, rest, weight)
        ctx.everywhere = everywhere
        return states, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, carry: Tensor) -> tuple[Tensor | None, ...]:
        gates, hidden, before, starts, decay, observed, rest, weight = ctx.saved_tensors
        grad_inputs, grad_decay = torch.empty_like(gates), torch.empty_like(decay)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
        grad_rest = torch.zeros_like(rest)
        for begin in reversed(range(0, len(gates), _PART)):
            part = slice(begin, begin + _PART)
            slopes = _slopes(gates[part], hidden[part], before[part])
            reset, update, _ = gates[part].chunk(3, 2)
            grad_hidden = slopes.clone()
            grad_hidden[:, :, 2] *= reset
            arriving, grad_before = torch.empty_like(before[part]), torch.empty_like(before[part])
            flat, kept = grad_hidden.flatten(2), 1 - decay[part]
            columns = (grad[part], arriving, grad_hidden, flat, update, grad_before, kept, observed[part])
            steps = zip(*columns, ctx.everywhere[part], strict=True)
            for g, new, per_gate, product, z, into, keep, seen, all_seen in reversed(list(steps)):
                torch.add(g, carry, out=new)
                if not all_seen:
                    new.masked_fill_(~seen, 0.0)
                per_gate.mul_(new[:, None])
                direct = new * z if all_seen else torch.where(seen, new * z, g)
                torch.addmm(direct, product, weight, out=into)
                past = into * keep
                carry = past if all_seen else torch.where(seen, past, past + carry)
            grad_weight.addmm_(flat.flatten(0, 1).t(), before[part].flatten(0, 1))
            grad_bias += flat.sum((0, 1))
            grad_rest += (grad_before * decay[part]).sum((0, 1))
            torch.mul(grad_before, rest - starts[part], out=grad_decay[part])
            torch.mul(slopes, arriving[:, :, None], out=grad_inputs[part].unflatten(2, (3, -1)))
        return grad_inputs, grad_decay, None, grad_rest, grad_weight, grad_bias, carry


def _slopes(gates: Tensor, hidden: Tensor, before: Tensor) -> Tensor:
    """The derivative of the new state with respect to the argument of each gate, (T, N, 3, H)."""
    reset, update, candidate = gates.chunk(3, 2)
    by_candidate = (1 - update) * (1 - candidate * candidate)
    by_update = (before - candidate) * (update * (1 - update))
    by_reset = by_candidate * hidden * (reset * (1 - reset))
    return torch.stack((by_reset, by_update, by_candidate), 2)
