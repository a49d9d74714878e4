"""The measurement of one column of a report at a time, block by block, through a progress file."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import predict, predict_and_differentiate, same_logits
from dampode.robustness.noise.sources import NoiseSource
from dampode.robustness.norms import length
from dampode.robustness.progress_file import ProgressFile
from dampode.robustness.random_blocks import block_generator, blocks
from dampode.robustness.results import Column, pack_flags, unpack_flags

__all__ = ["Setup", "Task"]

MeasureBlock = Callable[[slice, int], tuple[Tensor, float]]
"""Measures one block, given its images and its index: a flag per image, and the overshoot."""


@dataclass(frozen=True)
class Task:
    """A column without results yet, to be measured on the first ``images`` images."""

    column: Column
    images: int
    measure: MeasureBlock


@dataclass(frozen=True)
class Setup:
    """What all columns are measured with.

    Args:
        model: classifier of pixels, in eval mode.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        seed: seed of the attacks' draws.
        batch_size: images per forward pass.
        progress_file: keeps the finished blocks.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    progress_file: ProgressFile

    def run(self, task: Task, advance: Callable[[], None]) -> Column:
        """Measure a task, except for blocks already finished. ``advance`` is called after each block."""
        column, parts, overshoot = task.column, [], 0.0
        finished = self.progress_file.finished
        for index, block in enumerate(blocks(task.images)):
            key = f"{column.group}/{column.name}/{column.strength!r}/{index}"
            if key not in finished:
                flags, block_overshoot = task.measure(block, index)
                self.progress_file.add(key, {"correct": pack_flags(flags), "overshoot": block_overshoot})
            parts.append(unpack_flags(str(finished[key]["correct"]), block.stop - block.start))
            overshoot = max(overshoot, float(finished[key]["overshoot"]))
            advance()
        return replace(column, correct=torch.cat(parts), overshoot=overshoot)

    def clean(self) -> Task:
        """The clean images."""
        return self._task("clean", "clean", 0.0, lambda block, _: (self._correct(self.x[block], block), 0.0))

    def noisy(self, source: NoiseSource, name: str, severity: int) -> Task:
        """A noise at a severity."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            return self._correct(source.block(name, severity, index), block), 0.0

        return self._task("noise", name, float(severity), measure)

    def attacked(self, name: str, attack: Attack, eps: float, group: str = "attack", images: int | None = None) -> Task:
        """An attack at a radius. Attacks of the same name and radius draw the same random numbers."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            perturbed = self._perturb(name, attack, eps, block, index)
            distance = length(perturbed - self.x[block], attack.traits.norm).max()
            outside = [distance - attack.traits.max_distance * eps, -perturbed.min(), perturbed.max() - 1]
            return self._correct(perturbed, block), max(0.0, *(value.item() for value in outside))

        return self._task(group, name, float(eps), measure, images, attack)

    def unchanged_at_zero(self, name: str, attack: Attack, images: int) -> Task:
        """Whether an attack of radius 0 leaves each image unchanged."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            perturbed = self._perturb(f"{name} at 0", attack, 0.0, block, index)
            return (perturbed == self.x[block]).flatten(1).all(1), 0.0

        return self._task("zero radius", name, 0.0, measure, images)

    def has_gradient(self, images: int) -> Task:
        """Whether the gradient at each image has an entry that is not zero."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            _, gradient = predict_and_differentiate(self.model, self.x[block], self.y[block], self.batch_size)
            return (gradient != 0).flatten(1).any(1), 0.0

        return self._task("gradient", "model", 0.0, measure, images)

    def has_repeated_logits(self, images: int) -> Task:
        """Whether each image has the same logits in a second evaluation, and in batches of half the size."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            x = self.x[block]
            size = min(self.batch_size, len(x))
            first, second, halves = (predict(self.model, x, b) for b in (size, size, -(-size // 2)))
            return same_logits(first, second) & same_logits(first, halves), 0.0

        return self._task("repeated logits", "model", 0.0, measure, images)

    def _perturb(self, name: str, attack: Attack, eps: float, block: slice, index: int) -> Tensor:
        generator = block_generator(self.x.device, self.seed, name, float(eps), index)
        return attack(self.model, self.x[block], self.y[block], eps, generator, self.batch_size)

    def _correct(self, x: Tensor, block: slice) -> Tensor:
        return predict(self.model, x, self.batch_size).argmax(1) == self.y[block]

    def _task(
        self,
        group: str,
        name: str,
        strength: float,
        measure: MeasureBlock,
        images: int | None = None,
        attack: Attack | None = None,
    ) -> Task:
        settings, traits = ("", None) if attack is None else (repr(attack), attack.traits)
        no_results = torch.empty(0, dtype=torch.bool, device="cpu")
        column = Column(group, name, strength, no_results, settings=settings, traits=traits)
        return Task(column, len(self.x) if images is None else min(images, len(self.x)), measure)
