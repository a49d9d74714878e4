"""The states at the output times of a solve, put together from what single steps gave."""

import torch
from torch import Tensor

__all__ = ["scatter_states"]


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
