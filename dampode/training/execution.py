"""How a training step is computed: precision, compilation, memory layout, CUDA graphs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from dampode._checks import require_instance
from dampode.block import DampedBlock, Transition

__all__ = ["Compile", "Execution", "Precision"]

Precision = Literal["fp32", "bf16", "fp16"]
Compile = Literal["off", "blocks", "default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class Execution:
    """How the steps of a recipe are computed. The defaults work everywhere; the other settings are faster.

    Args:
        precision: "fp32", or the type in which autocast computes convolutions and products: "bf16", or "fp16" with a
            loss scale. Parameters, their updates and the loss stay in fp32. A CPU without bf16 instructions emulates
            them slowly.
        compile: "off", "blocks", or a mode of `torch.compile` for the whole network. "blocks" compiles every
            `DampedBlock` and `Transition` separately, and equal blocks once. That takes seconds; a deep network as a
            whole takes minutes. "reduce-overhead" records CUDA graphs of the forward and the backward pass.
        channels_last: whether images and convolution weights lie channels-last in memory. None chooses it where it is
            faster: on a CPU unless a convolution has 4 to 7 channels, and on other devices below fp32.
        step_graph: whether whole steps are recorded as CUDA graphs and replayed (`StepGraph`). A deep network of small
            kernels needs it, because launching them takes longer than computing them.

    Raises:
        ValueError: the precision or mode does not exist, or step_graph cannot record it.
        TypeError: channels_last or step_graph is not a bool.
    """

    precision: Precision = "fp32"
    compile: Compile = "off"
    channels_last: bool | None = None
    step_graph: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value, allowed in (
            ("precision", self.precision, get_args(Precision)),
            ("compile", self.compile, get_args(Compile)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not (self.channels_last is None or isinstance(self.channels_last, bool)):
            raise TypeError(f"channels_last must be True, False or None, got {self.channels_last!r}")
        require_instance(self.step_graph, bool, "step_graph")
        if self.step_graph and (self.precision == "fp16" or self.compile in ("reduce-overhead", "max-autotune")):
            raise ValueError(
                "step_graph takes bf16 or fp32, which need no loss scale, and no mode that records graphs itself, "
                f"got {self.precision} and {self.compile}; use bf16 and 'blocks'"
            )

    @contextmanager
    def forward(self, device: torch.device) -> Iterator[None]:
        """The context of a forward pass.

        Autocast keeps its half-precision copies of the weights until the outermost autocast ends. Inside a caller's
        autocast a pass would use the copies of an earlier step, so they are dropped first.
        """
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        # a CUDA graph must make its own copies of the weights
        autocast = torch.autocast(device.type, dtype, self.precision != "fp32", cache_enabled=not self.step_graph)
        # torch.compile gives up on a function at its 8th kind of input, and the blocks of three networks have more
        blocks = self.compile == "blocks"
        torch.clear_autocast_cache()
        with autocast, torch._dynamo.config.patch(recompile_limit=100) if blocks else nullcontext():
            yield

    def compiled(self, model: nn.Module, layout: torch.memory_format) -> nn.Module:
        """The model, or a compiled copy that shares its parameters. Each batch size is compiled separately.

        Args:
            model: the model, in its memory layout.
            layout: that memory layout, which the compiled code keeps. By default torch.compile makes every convolution
                on a CPU channels-last, even those for which torch's kernels are wrong.

        Raises:
            ValueError: compile is "blocks", and the model has none.
        """
        if self.compile == "off":
            return model
        mode = "default" if self.compile == "blocks" else self.compile
        options = {
            **torch._inductor.list_mode_options(mode),
            "layout_optimization": layout == torch.channels_last,
        }
        if self.compile == "blocks":
            return _compiled_by_blocks(model, options)
        return cast(nn.Module, torch.compile(model, options=options, dynamic=False))

    @contextmanager
    def layout(self, model: nn.Module, device: torch.device) -> Iterator[torch.memory_format]:
        """Give the model the memory layout that its images will have too; afterwards the model is contiguous again.

        Raises:
            ValueError: channels_last is True on a CPU, and a convolution has 4 to 7 channels.
        """
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        # torch 2.14's CPU kernels write out of bounds there
        broken = device.type == "cpu" and any(
            channels in range(4, 8)
            for c in convolutions
            for channels in (c.in_channels, c.out_channels, c.in_channels // c.groups)
        )
        if self.channels_last and broken:
            raise ValueError(
                "channels_last must stay off on a CPU where a convolution has 4 to 7 channels (torch's kernels are "
                "wrong there); use channels_last=None or another width"
            )
        pays = bool(convolutions) and not broken and (device.type == "cpu" or self.precision != "fp32")
        if not (pays if self.channels_last is None else self.channels_last):
            yield torch.contiguous_format
            return
        model.to(memory_format=torch.channels_last)
        try:
            yield torch.channels_last
        finally:
            model.to(memory_format=torch.contiguous_format)


def _compiled_by_blocks(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A copy whose blocks are compiled; it shares the model's parameters and buffers."""
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, kept)
    blocks = [module for module in twin.modules() if isinstance(module, DampedBlock | Transition)]
    if not blocks:
        raise ValueError("compile='blocks' takes a model of DampedBlock or Transition, got none; use 'default'")
    for block in blocks:
        block.compile(options=options, dynamic=False)
    return twin
