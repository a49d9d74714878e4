"""The group of the processes that a launcher started."""

import atexit

import torch.distributed as dist

__all__ = ["end_group_at_exit"]


def end_group_at_exit() -> None:
    """End the group of processes with the program.

    The threads of a group would otherwise still run while Python ends, which aborts some programs.
    """
    atexit.register(_end_group)


def _end_group() -> None:
    """End the group, unless the program has ended it."""
    if dist.is_initialized():
        dist.destroy_process_group()
