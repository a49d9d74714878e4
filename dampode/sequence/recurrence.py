"""The linear recurrence h_k = a_k h_{k−1} + b_k as a scan over time, with its own backward formula."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from dampode._checks import require_instance

__all__ = ["damped_recurrence", "linear_recurrence"]

_WIDTH = {"cpu": 4096, "cuda": 1 << 20}
"""Elements that one step of a scan should have, so that starting the step costs less than computing it."""
_SHORTEST = 8
"""A chunk of time has at least so many steps."""


def linear_recurrence(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """All states of h_k = a_k h_{k−1} + b_k, k = 1 .. T, by an associative scan.

    The steps of a narrow batch are computed in chunks of time side by side, and the chunks are joined by the same scan;
    a wide batch needs one chunk. The scan only multiplies and adds, so it does not overflow while |a| <= 1. Half
    precision is computed in float32. The backward pass is the reversed scan, s_k = g_k + a*_{k+1} s_{k+1}; it is
    differentiable again. Time and memory grow linearly with T.

    Args:
        a: factors, (N, T, H), real or complex.
        b: inputs, (N, T, H).
        h0: the state before the first step, (N, H).

    Returns:
        h_1 .. h_T, (N, T, H), in b's dtype.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: an argument is not a floating or complex tensor, or only some of them are complex.

    Source: Blelloch, Prefix sums and their applications, 1990; Martin & Cundy 2018.
    """
    for name, value in (("a", a), ("b", b), ("h0", h0)):
        require_instance(value, Tensor, name)
        if not (value.is_floating_point() or value.is_complex()) or value.is_complex() != b.is_complex():
            raise TypeError(
                f"a, b and h0 must be floating tensors, or all three complex, got {a.dtype}, {b.dtype} and {h0.dtype}"
            )
    if b.ndim != 3 or a.shape != b.shape or h0.shape != (len(b), b.shape[2]):
        raise ValueError(
            f"a and b must be (N, T, H) and h0 (N, H), got {tuple(a.shape)}, {tuple(b.shape)} and {tuple(h0.shape)}"
        )
    wide = torch.promote_types(b.dtype, torch.float32)
    h = _Recurrence.apply(a.to(wide), b.to(wide), h0.to(wide), False)
    return cast(Tensor, h.to(b.dtype))


def damped_recurrence(rate: Tensor, gaps: Tensor, u: Tensor, h0: Tensor, held: bool) -> tuple[Tensor, Tensor]:
    """All states of h_k = a_k h_{k−1} + u_k with a_k = e^{−λ_k Δt_k}; or, held, h_k = a_k h_{k−1} + (1 − a_k) u_k.

    The backward pass computes the factors a again instead of storing them. It is differentiable again.

    Args:
        rate: λ, real or complex, (N, T, H), or (1, 1, H) for all steps.
        gaps: Δt, real, (N, T, 1).
        u: inputs, (N, T, H), of the dtype of rate.
        h0: the state before the first step, (N, H), of the same dtype.
        held: whether u drives the state over the gap, instead of a jump.

    Returns:
        h_1 .. h_T, (N, T, H), and h_T, (N, H).
    """
    states, last = _DampedRecurrence.apply(rate, gaps, u, h0, held)
    return states, last


class _DampedRecurrence(torch.autograd.Function):
    """`damped_recurrence` and its derivative."""

    @staticmethod
    def forward(ctx: Any, rate: Tensor, gaps: Tensor, u: Tensor, h0: Tensor, held: bool) -> tuple[Tensor, Tensor]:
        a = _factors(rate, gaps)
        h: Tensor = _scan(a, (1 - a) * u if held else u, h0, False)
        ctx.save_for_backward(rate, gaps, u if held else None, h0, h)
        return h, h[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rate, gaps, u, h0, h = ctx.saved_tensors
        g, g_last = grads
        a = _factors(rate, gaps).conj().resolve_conj()
        s: Tensor = _Recurrence.apply(_before(a, torch.ones_like(h0), True), g, g_last, True)
        driven = _before(h, h0, False) if u is None else _before(h, h0, False) - u
        by_exponent = a * s * driven.conj()
        by_rate = -(by_exponent * gaps).sum_to_size(rate.shape)
        by_gaps = -(by_exponent * rate.conj()).real.sum(2, keepdim=True) if ctx.needs_input_grad[1] else None
        return by_rate, by_gaps, s if u is None else (1 - a) * s, a[:, 0] * s[:, 0], None


def _factors(rate: Tensor, gaps: Tensor) -> Tensor:
    """e^{−λΔt}, (N, T, H). A complex exponential costs several times as much as its size and its angle."""
    if not rate.is_complex():
        return torch.exp(-gaps * rate)
    largest = torch.finfo(gaps.dtype).max  # an infinite angle has no cosine
    return torch.polar(torch.exp(-gaps * rate.real), (-gaps * rate.imag).clamp(-largest, largest))


class _Recurrence(torch.autograd.Function):
    """The scan and its derivative, which is the scan in the other direction."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor, backwards: bool) -> Tensor:
        h: Tensor = _scan(a, b, h0, backwards)
        ctx.save_for_backward(a, h, h0)
        ctx.backwards = backwards
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        a, h, h0 = ctx.saved_tensors
        (g,) = grads
        a, end = a.conj().resolve_conj(), torch.zeros_like(h0)
        s: Tensor = _Recurrence.apply(_before(a, end, not ctx.backwards), g, end, not ctx.backwards)
        first = -1 if ctx.backwards else 0
        return s * _before(h, h0, ctx.backwards).conj(), s, a[:, first] * s[:, first], None


def _before(h: Tensor, h0: Tensor, backwards: bool) -> Tensor:
    """The states before each step of a scan, (N, T, H)."""
    return torch.cat((h[:, 1:], h0[:, None]) if backwards else (h0[:, None], h[:, :-1]), 1)


@torch.library.custom_op("dampode::scan", mutates_args=())  # torch.compile would unroll the loop
def _scan(a: Tensor, b: Tensor, h0: Tensor, backwards: bool) -> Tensor:
    """All states, (N, T, H); backwards, h_k = a_k h_{k+1} + b_k with h0 after the last step."""
    return _in_chunks(a, b, h0, backwards).contiguous()


@_scan.register_fake
def _(a: Tensor, b: Tensor, h0: Tensor, backwards: bool) -> Tensor:
    return b.new_empty(b.shape)


def _in_chunks(a: Tensor, b: Tensor, h0: Tensor, backwards: bool) -> Tensor:
    """The states, with narrow steps computed in chunks of time side by side."""
    steps = b.shape[1]
    chunks = min(_WIDTH.get(b.device.type, _WIDTH["cuda"]) // max(h0.numel(), 1), steps // _SHORTEST)
    if chunks < 4:
        return _march(a, b, h0, backwards)
    missing = -steps % chunks
    a = pad(a, (0, 0, 0, missing), value=1.0).unflatten(1, (chunks, -1))  # (N, chunks, L, H)
    b = pad(b, (0, 0, 0, missing)).unflatten(1, (chunks, -1))
    zero = b.new_zeros(()).expand_as(b)
    products = _march(a, zero, torch.ones_like(a[:, :, 0]), backwards)
    h = _march(a, b, zero[:, :, 0], backwards)
    end = 0 if backwards else -1
    ends = _in_chunks(products[:, :, end], h[:, :, end], h0, backwards)
    h.addcmul_(products, _before(ends, h0, backwards)[:, :, None])
    return h.flatten(1, 2)[:, :steps]


def _march(a: Tensor, b: Tensor, h0: Tensor, backwards: bool) -> Tensor:
    """All states, step by step along the last axis but one."""
    h = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    steps = list(zip(a.unbind(-2), b.unbind(-2), h.unbind(-2), strict=True))
    before = h0
    for factor, add, state in reversed(steps) if backwards else steps:
        before = torch.addcmul(add, factor, before, out=state)
    return h
