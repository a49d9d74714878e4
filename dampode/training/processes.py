"""The processes that train together: those that `accelerate launch` or `torchrun` started, or just this one."""

import os

import torch
from accelerate import Accelerator

__all__ = ["is_main", "local_device", "processes"]


def processes(device: torch.device) -> Accelerator:
    """The processes that train together, each on its own device. `fit` handles precision and placement itself."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return Accelerator(mixed_precision="no", device_placement=False, cpu=device.type == "cpu" and not alone)


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
