"""Several processes, as `accelerate launch` or `torchrun` start them; one process where neither did."""

import os

import torch
from accelerate import Accelerator


def processes(device: torch.device) -> Accelerator:
    """The processes that train together, each on its own device. Precision and placement stay with the engine."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return Accelerator(mixed_precision="no", device_placement=False, cpu=device.type == "cpu" and not alone)


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def local_device(device: str) -> torch.device:
    """This process's device of a kind: "cuda" is the GPU of the process's own number.

    Raises:
        ValueError: there is no such device here.
    """
    own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
    try:
        return torch.empty(1, device=own).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {own} cannot be used here: {str(error).splitlines()[0]}") from None
