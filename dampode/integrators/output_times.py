"""The states at the output times of a solve, put together from what single steps gave."""

import torch
from torch import Tensor

__all__ = ["scatter_states", "with_ends"]


def scatter_states(index: Tensor, states: Tensor, count: int, like: Tensor) -> Tensor:
    """The states at ``count`` output times, (T, N, *S); NaN where none is given.

    Args:
        index: where each state belongs in (T · N): its time's number times N plus its sample's number, (M,) int64.
        states: the states, (M, *S).
        count: number of output times T.
        like: a state of the batch, (N, *S).
    """
    flat = like.new_full((count * len(like), *like.shape[1:]), torch.nan)
    return flat.index_copy(0, index, states).reshape(count, *like.shape)


def with_ends(first: Tensor, inner: Tensor, last: Tensor, inner_tau: Tensor, span: Tensor) -> Tensor:
    """The states at all output times, (T, N, *S).

    Args:
        first: the states at the first time, (N, *S).
        inner: the states at the times between, (T − 2, N, *S).
        last: the states at the last time, (N, *S).
        inner_tau: τ of the times between, (T − 2,), or (N, T − 2), where a row may end with its last time repeated.
        span: τ of the last time, () or N values.
    """
    if inner_tau.ndim == 2:
        ended = inner_tau >= span.reshape(-1, 1)
        inner = torch.where(ended.T.reshape(*inner.shape[:2], *[1] * (last.ndim - 1)), last, inner)
    return torch.cat((first[None], inner, last[None]))
