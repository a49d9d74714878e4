"""A training step as one CUDA graph: recorded once, then replayed, so that its thousand kernels cost one launch."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
_BEFORE = 3  # steps of a batch size that are taken kernel by kernel first: they compile, choose kernels, make buffers


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    chosen: Tensor
    drawn: Tensor
    loss: Tensor


class StepGraph:
    """A step on CUDA that is recorded for each size of batch, and replayed from then on.

    What the step reads and changes, weights, momenta, statistics and counters, must stay in place; what it reads on
    the host, such as the learning rate, is frozen until `forget`. The steps before a recording are steps of the run
    like any other.

    Args:
        step: takes the indices of a batch, (B,), and the draws of its augmentation, (3, B); returns the loss, ().

    Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._taken: Counter[int] = Counter()
        self._recorded: dict[int, _Recorded] = {}
        self._stream = torch.cuda.Stream()

    def forget(self) -> None:
        """Record anew from here on."""
        self._recorded.clear()

    def __call__(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        """Take the step; the loss, (), is overwritten by the next one."""
        size = len(chosen)
        if self._taken[size] < _BEFORE:
            self._taken[size] += 1
            return self._unrecorded(chosen, drawn)
        if size not in self._recorded:
            self._recorded[size] = self._record(chosen, drawn)
        recorded = self._recorded[size]
        recorded.chosen.copy_(chosen)
        recorded.drawn.copy_(drawn)
        recorded.graph.replay()
        return recorded.loss

    def _unrecorded(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        """A step on the stream that will record: autograd's nodes remember the stream that they were made on."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = self._step(chosen, drawn)
        here.wait_stream(self._stream)
        return loss

    def _record(self, chosen: Tensor, drawn: Tensor) -> _Recorded:
        """The step as a graph; nothing is computed."""
        inputs = chosen.clone(), drawn.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            loss = self._step(*inputs)
        return _Recorded(graph, *inputs, loss)
