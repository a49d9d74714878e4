"""An easier problem on the same images."""

from dataclasses import replace

import pytest
import torch

from benchmarks.paper.plan.protocols import Task
from benchmarks.paper.run.simplified_images import simplified


def test_classes_are_chosen_and_pixels_averaged(images):
    small = simplified(images, Task(classes=(2, 0), side=4))
    assert small.num_classes == 2
    assert small.x_train.shape == (85, 3, 4, 4)
    chosen = images.y_train != 1
    assert torch.equal(small.y_train, images.y_train[chosen] // 2)
    first = images.x_train[chosen][0, 0, :2, :2].float().mean().round()
    assert small.x_train[0, 0, 0, 0] == first
    assert len(small.x_test) == len(small.y_test) == int((images.y_test != 1).sum())


def test_a_side_that_does_not_divide_is_refused(images):
    with pytest.raises(ValueError, match="a multiple of the task's, got 8 and 3"):
        simplified(replace(images), Task(classes=(0, 1), side=3))
