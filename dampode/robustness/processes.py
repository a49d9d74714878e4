"""The processes that measure together: those that `accelerate launch` or `torchrun` started, or just this one."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from dampode._processes import end_group_at_exit

__all__ = ["ALONE", "Processes", "measuring_together"]

T = TypeVar("T")

MEETING = timedelta(minutes=10)
"""Time in which all processes must have called `evaluate`."""
MEASURING = timedelta(days=30)
"""Time in which the slowest process must finish a share."""


@dataclass(frozen=True)
class Processes:
    """The processes that measure together.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        group: their group in torch.distributed; None for one process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the first one, which reads and writes the file."""
        return self.rank == 0

    def share(self, indices: Tensor) -> Tensor:
        """The images among these that this process measures: every ``size``-th, so that hard images are spread."""
        return indices[self.rank :: self.size]

    def gather(self, compute: Callable[[], T]) -> list[T]:
        """What each process computes, by rank. An error in one process is raised in all, so that none waits for it."""
        if self.group is None:
            return [compute()]
        outcome: tuple[T | None, Exception | None]
        try:
            outcome = compute(), None
        except Exception as error:
            outcome = None, _sendable(error)
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, outcome, group=self.group)
        errors = [error for _, error in outcomes if error is not None]
        if errors:
            raise errors[0]
        return [value for value, _ in outcomes]

    def agree(self, condition: bool) -> bool:
        """Whether a condition holds in every process."""
        return all(self.gather(lambda: condition))

    def from_main(self, compute: Callable[[], T]) -> T:
        """What the main process computes, given to all."""
        return self.gather(lambda: compute() if self.is_main else None)[0]  # type: ignore[return-value]


ALONE = Processes()


@contextmanager
def measuring_together(together: bool) -> Iterator[Processes]:
    """The processes that measure together.

    Args:
        together: whether the launched processes share the work; each of them must then enter this context. Otherwise
            this process measures alone.

    Raises:
        RuntimeError: another process did not enter within ten minutes.
    """
    if not together or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if not dist.is_initialized():
        dist.init_process_group()
        end_group_at_exit()
    groups: list[Any] = []
    try:
        for timeout in (MEETING, MEASURING):  # the first only meets; a wait for a slow share may take longer
            groups.append(dist.new_group(backend="gloo", timeout=timeout))
            dist.barrier(group=groups[-1])
        yield Processes(dist.get_rank(), dist.get_world_size(), groups[-1])
    finally:
        for group in groups:
            dist.destroy_process_group(group)


def _sendable(error: Exception) -> Exception:
    """The error itself, or one of the same words if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
