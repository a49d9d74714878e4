"""A GRU whose state decays to a rest state before each step, as one operation over time with its own backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["relaxing_gru"]


def relaxing_gru(
    inputs: Tensor, decay: Tensor, observed: Tensor, rest: Tensor, weight: Tensor, bias: Tensor, h0: Tensor
) -> Tensor:
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
        h_1 .. h_T, (T, N, H).

    Source: Cho et al. 2014; the gates are those of `torch.nn.GRUCell`.
    """
    states: Tensor = _RelaxingGRU.apply(inputs, decay, observed[:, :, None], rest, weight, bias, h0)
    return states


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
    ) -> Tensor:
        size = h0.shape[1]
        transposed = weight.t().contiguous()
        gates, hidden, before, states = (torch.empty_like(like) for like in (inputs, inputs, decay, decay))
        # slicing once costs less than slicing in every step
        given = zip(inputs[:, :, : 2 * size], inputs[:, :, 2 * size :], decay, observed, strict=True)
        pre_candidate = zip(hidden, hidden[:, :, : 2 * size], hidden[:, :, 2 * size :], strict=True)
        gate = zip(gates[:, :, : 2 * size], *gates.chunk(3, 2), strict=True)
        everywhere = observed.all(2).all(1).tolist()
        state, starts = h0, []
        for (i, i_n, w, seen), (g, g_rz, g_n), (rz, r, z, n), m, h, all_seen in zip(
            given, pre_candidate, gate, before, states, everywhere, strict=True
        ):
            starts.append(state)
            torch.lerp(state, rest, w, out=m)
            torch.addmm(bias, m, transposed, out=g)
            torch.add(i, g_rz, out=rz).sigmoid_()
            torch.addcmul(i_n, r, g_n, out=n).tanh_()
            torch.lerp(n, m, z, out=h)
            if all_seen:
                state = h
            else:
                state = torch.where(seen, h, state)
                torch.where(seen, h, m, out=h)
        kept = hidden[:, :, 2 * size :].clone()
        ctx.save_for_backward(gates, kept, before, torch.stack(starts), decay, observed, rest, weight)
        ctx.everywhere = everywhere
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates, hidden, before, starts, decay, observed, rest, weight = ctx.saved_tensors
        reset, update, candidate = gates.chunk(3, 2)
        # the derivative of the new state with respect to the argument of each gate, (T, N, 3, H)
        slopes = torch.empty_like(gates).unflatten(2, (3, -1))
        torch.mul(1 - update, 1 - candidate * candidate, out=slopes[:, :, 2])
        torch.mul(before - candidate, update * (1 - update), out=slopes[:, :, 1])
        torch.mul(slopes[:, :, 2] * hidden, reset * (1 - reset), out=slopes[:, :, 0])
        grad_hidden = slopes.clone()
        grad_hidden[:, :, 2] *= reset
        arriving, grad_before, kept = torch.empty_like(before), torch.empty_like(before), 1 - decay
        steps = zip(
            grad,
            arriving,
            grad_hidden,
            grad_hidden.flatten(2),
            update,
            grad_before,
            kept,
            observed,
            ctx.everywhere,
            strict=True,
        )
        carry = torch.zeros_like(before[0])
        for g, new, per_gate, flat, z, into, keep, seen, all_seen in reversed(list(steps)):
            torch.add(g, carry, out=new)
            if not all_seen:
                new.masked_fill_(~seen, 0.0)
            per_gate.mul_(new[:, None])
            direct = new * z if all_seen else torch.where(seen, new * z, g)
            torch.addmm(direct, flat, weight, out=into)
            past = into * keep
            carry = past if all_seen else torch.where(seen, past, past + carry)
        flat = grad_hidden.flatten(2)
        grad_weight = flat.flatten(0, 1).t() @ before.flatten(0, 1)
        grad_decay = grad_before * (rest - starts)
        grad_rest = (grad_before * decay).sum((0, 1))
        grad_inputs = slopes.mul_(arriving[:, :, None]).flatten(2)
        return grad_inputs, grad_decay, None, grad_rest, grad_weight, flat.sum((0, 1)), carry
