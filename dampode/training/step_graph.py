"""A training step as one CUDA graph: it is recorded once and then replayed, so a thousand kernels cost one launch."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["StepGraph"]

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
_WARM_UP = 3  # first steps of each batch size, kernel by kernel: they compile, choose kernels and allocate buffers


class _Recorded(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor, Tensor]
    loss: Tensor


class StepGraph:
    """A step on CUDA that is recorded for each batch size and replayed from then on.

    The tensors that the step reads and changes (weights, momenta, statistics, counters) must stay at their addresses.
    Values that the step reads on the host, such as the learning rate, are frozen until `forget`. The steps before a
    recording are ordinary steps of the run.

    Args:
        step: takes the images and labels of a batch, (B, C, H, W) and (B,), and the draws of its augmentation, (3, B);
            returns the loss, ().

    Source: Nguyen et al. 2021, Accelerating PyTorch with CUDA Graphs.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._taken: Counter[int] = Counter()
        self._recorded: dict[int, _Recorded] = {}
        self._stream = torch.cuda.Stream()

    def forget(self) -> None:
        """Drop all recordings; the next steps are recorded anew."""
        self._recorded.clear()

    def __call__(self, x: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
        """Take the step and return its loss, (), which the next step overwrites."""
        size = len(x)
        if self._taken[size] < _WARM_UP:
            self._taken[size] += 1
            return self._unrecorded(x, y, drawn)
        if size not in self._recorded:
            self._recorded[size] = self._record(x, y, drawn)
        recorded = self._recorded[size]
        for held, given in zip(recorded.inputs, (x, y, drawn), strict=True):
            held.copy_(given)
        recorded.graph.replay()
        return recorded.loss

    def _unrecorded(self, x: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
        """A step on the stream that will record, because autograd's nodes remember the stream that made them."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = self._step(x, y, drawn)
        here.wait_stream(self._stream)
        return loss

    def _record(self, x: Tensor, y: Tensor, drawn: Tensor) -> _Recorded:
        """Record the step as a graph, without computing anything."""
        inputs = x.clone(), y.clone(), drawn.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            loss = self._step(*inputs)
        return _Recorded(graph, inputs, loss)
