"""The images of an easier problem: some of the classes, at a lower resolution."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.paper.plan.protocols import Task
from dampode.data import ImageData

__all__ = ["simplified"]


def simplified(images: ImageData, task: Task) -> ImageData:
    """The images of the task's classes, whose labels become 0, 1, ...; each pixel is the mean of a square.

    Raises:
        ValueError: the images' side is not a multiple of the task's.
    """
    side = images.x_train.shape[-1]
    if side % task.side:
        raise ValueError(f"the side of the images must be a multiple of the task's, got {side} and {task.side}")
    parts: dict[str, Tensor] = {}
    for part in ("train", "test"):
        x, y = getattr(images, f"x_{part}"), getattr(images, f"y_{part}")
        chosen = torch.isin(y, torch.tensor(task.classes))
        small = avg_pool2d(x[chosen].float(), side // task.side).round().to(torch.uint8)
        label = torch.searchsorted(torch.tensor(sorted(task.classes)), y[chosen])
        parts |= {f"x_{part}": small, f"y_{part}": label}
    name = f"{images.name}, classes {', '.join(map(str, task.classes))}, {task.side}x{task.side}"
    return replace(images, name=name, num_classes=len(task.classes), **parts)
