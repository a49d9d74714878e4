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
        gates, hidden = torch.empty_like(inputs), torch.empty_like(inputs)
        before, states, starts = torch.empty_like(decay), torch.empty_like(decay), torch.empty_like(decay)
        state = h0
        for k in range(len(inputs)):
            starts[k] = state
            torch.lerp(state, rest, decay[k], out=before[k])
            torch.addmm(bias, before[k], transposed, out=hidden[k])
            reset_update, candidate = gates[k, :, : 2 * size], gates[k, :, 2 * size :]
            torch.add(inputs[k, :, : 2 * size], hidden[k, :, : 2 * size], out=reset_update).sigmoid_()
            torch.addcmul(inputs[k, :, 2 * size :], gates[k, :, :size], hidden[k, :, 2 * size :], out=candidate).tanh_()
            new = torch.lerp(candidate, before[k], gates[k, :, size : 2 * size])
            torch.where(observed[k], new, before[k], out=states[k])
            state = torch.where(observed[k], new, state)
        ctx.save_for_backward(gates, hidden[:, :, 2 * size :].clone(), before, starts, decay, observed, rest, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates, hidden, before, starts, decay, observed, rest, weight = ctx.saved_tensors
        reset, update, candidate = gates.chunk(3, 2)
        # each gate's derivative with respect to its argument, times what the new state makes of it
        slopes = torch.empty_like(gates)
        by_reset, by_update, by_candidate = slopes.chunk(3, 2)
        torch.mul(1 - update, 1 - candidate * candidate, out=by_candidate)
        torch.mul(before - candidate, update * (1 - update), out=by_update)
        torch.mul(by_candidate * hidden, reset * (1 - reset), out=by_reset)
        through = torch.cat((slopes[:, :, : 2 * before.shape[2]], by_candidate * reset), 2)
        grad_inputs, grad_hidden, grad_before = torch.empty_like(gates), through, torch.empty_like(before)
        kept = 1 - decay
        carry = torch.zeros_like(before[0])
        for k in range(len(gates) - 1, -1, -1):
            arriving = torch.where(observed[k], grad[k] + carry, 0.0)
            torch.mul(slopes[k], arriving.repeat(1, 3), out=grad_inputs[k])
            grad_hidden[k] *= arriving.repeat(1, 3)
            direct = torch.where(observed[k], arriving * update[k], grad[k])
            torch.addmm(direct, grad_hidden[k], weight, out=grad_before[k])
            carry = torch.where(observed[k], 0.0, carry).addcmul_(grad_before[k], kept[k])
        grad_weight = grad_hidden.flatten(0, 1).t() @ before.flatten(0, 1)
        grad_decay = grad_before * (rest - starts)
        grad_rest = (grad_before * decay).sum((0, 1))
        return grad_inputs, grad_decay, None, grad_rest, grad_weight, grad_hidden.sum((0, 1)), carry
