"""The processes that train together: those that `accelerate launch` or `torchrun` started, or just this one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dampode._processes import end_group_at_exit
from dampode.training.execution import Execution

__all__ = ["distributed", "is_main", "local_device", "own_random", "processes", "require_precision_of_launcher"]


def processes(device: torch.device) -> PartialState:
    """The processes that train together, each on its own device.

    Accelerate keeps one state of the processes, which a user's own ``Accelerator`` of any precision shares. A group of
    processes that begins here ends with the program.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone and not dist.is_initialized():
        end_group_at_exit()
    return PartialState(cpu=device.type == "cpu" and not alone)


def distributed(network: nn.Module, device: torch.device, together: PartialState) -> nn.Module:
    """The network itself, or, with several processes, a wrapper that averages their gradients."""
    if together.num_processes == 1:
        return network
    return DistributedDataParallel(network, device_ids=None if device.type == "cpu" else [device])


def require_precision_of_launcher(execution: Execution) -> None:
    """Raise a ValueError if `accelerate launch` was asked for another precision than the execution."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", execution.precision):
        raise ValueError(
            f"accelerate launch and fit must have one precision, got --mixed_precision {asked} and "
            f'{execution.precision}; use Execution(precision="bf16") or "fp16", or leave out --mixed_precision'
        )


@contextmanager
def own_random(seed: int, device: torch.device, together: PartialState) -> Iterator[None]:
    """Seed torch's own generators, which layers such as dropout use; afterwards they are as before.

    Every process has its own draws, which differ from those of shuffling and augmentation.
    """
    sequence = np.random.SeedSequence([seed % 2**64, together.process_index])
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        yield


def is_main() -> bool:
    """Whether this process is the first one, which writes all files."""
    return int(os.environ.get("RANK", "0")) == 0


def local_device(device: str) -> torch.device:
    """The device of this process: for "cuda", the GPU with the local number of the process.

    Raises:
        ValueError: the device does not exist here, or computes nothing, as "meta".
    """
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    try:
        probe = torch.zeros(1, device=own)
        probe.item()  # a meta tensor has no value
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {own} cannot be used here: {str(error).splitlines()[0]}") from None
