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
    classes = torch.tensor(sorted(task.classes))

    def part(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.isin(y, classes)
        small = avg_pool2d(x[chosen].float(), side // task.side).round().to(torch.uint8)
        return small, torch.searchsorted(classes, y[chosen])

    x_train, y_train = part(images.x_train, images.y_train)
    x_test, y_test = part(images.x_test, images.y_test)
    name = f"{images.name}, classes {', '.join(map(str, task.classes))}, {task.side}x{task.side}"
    small = replace(images, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return replace(small, name=name, num_classes=len(task.classes))
