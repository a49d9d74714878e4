"""The measurement of one column of a report at a time, by all processes together, through a progress file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import predict, predict_and_differentiate, same_logits
from dampode.robustness.draws import ImageDraws
from dampode.robustness.gradient_check import agrees_with_differences
from dampode.robustness.noise.sources import NoiseSource
from dampode.robustness.norms import length
from dampode.robustness.processes import Processes
from dampode.robustness.progress_file import ProgressFile
from dampode.robustness.random_blocks import blocks
from dampode.robustness.results import Column, pack_flags, unpack_flags

__all__ = ["Setup", "Task"]

MeasureImages = Callable[[Tensor], tuple[Tensor, float]]
"""Measures some images, given their ascending indices (M,), on the CPU: a flag per image, and the overshoot."""


@dataclass(frozen=True)
class Task:
    """A column without results yet, to be measured on the first ``images`` images."""

    column: Column
    images: int
    measure: MeasureImages


@dataclass(frozen=True)
class Setup:
    """What all columns are measured with.

    Args:
        model: classifier of pixels, in eval mode.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        classes: number of classes of the model.
        seed: seed of the attacks' draws.
        batch_size: images per forward pass.
        progress_file: keeps the finished blocks.
        processes: the processes that measure together.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int
    seed: int
    batch_size: int
    progress_file: ProgressFile
    processes: Processes

    def run(self, task: Task, advance: Callable[[], None]) -> Column:
        """Measure a task, except for blocks already finished. ``advance`` is called after each block.

        The images of as many blocks as there are processes are shared out at a time.
        """
        column, finished = task.column, self.progress_file.finished
        keys = {f"{column.group}/{column.name}/{column.strength!r}/{i}": b for i, b in enumerate(blocks(task.images))}
        for _ in finished.keys() & keys:
            advance()
        missing, size = [key for key in keys if key not in finished], self.processes.size
        for some in (missing[start : start + size] for start in range(0, len(missing), size)):
            self._measure(task.measure, {key: keys[key] for key in some})
            for _ in some:
                advance()
        flags = [unpack_flags(str(finished[key]["correct"]), b.stop - b.start) for key, b in keys.items()]
        overshoot = max(float(finished[key]["overshoot"]) for key in keys)
        return replace(column, correct=torch.cat(flags), overshoot=overshoot)

    def _measure(self, measure: MeasureImages, keys: Mapping[str, slice]) -> None:
        """Measure some blocks together with the other processes, and add them to the file."""
        indices = torch.cat([torch.arange(block.start, block.stop, device="cpu") for block in keys.values()])
        own = self.processes.share(indices)
        shares = self.processes.gather(lambda: _measured(measure, own))
        flags = torch.empty(len(indices), dtype=torch.bool, device="cpu")
        for rank, (share, _) in enumerate(shares):
            flags[rank :: self.processes.size] = share
        overshoot = max(overshoot for _, overshoot in shares)
        sizes = [block.stop - block.start for block in keys.values()]
        parts = zip(keys, flags.split(sizes), strict=True)
        self.progress_file.add({key: {"correct": pack_flags(part), "overshoot": overshoot} for key, part in parts})

    def clean(self) -> Task:
        """The clean images."""
        return self._task("clean", "clean", 0.0, lambda indices: (self._correct(self.x[indices], indices), 0.0))

    def noisy(self, source: NoiseSource, name: str, severity: int) -> Task:
        """A noise at a severity."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            return self._correct(source.select(name, severity, indices), indices), 0.0

        return self._task("noise", name, float(severity), measure)

    def attacked(self, name: str, attack: Attack, eps: float, group: str = "attack", images: int | None = None) -> Task:
        """An attack at a radius. Attacks of the same name and radius draw the same random numbers."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            perturbed = self._perturb(name, attack, eps, indices)
            distance = length(perturbed - self.x[indices], attack.traits.norm).max()
            outside = [distance - attack.traits.max_distance * eps, -perturbed.min(), perturbed.max() - 1]
            return self._correct(perturbed, indices), max(0.0, *(value.item() for value in outside))

        return self._task(group, name, float(eps), measure, images, attack)

    def unchanged_at_zero(self, name: str, attack: Attack, images: int) -> Task:
        """Whether an attack of radius 0 leaves each image unchanged."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            perturbed = self._perturb(f"{name} at 0", attack, 0.0, indices)
            return (perturbed == self.x[indices]).flatten(1).all(1), 0.0

        return self._task("zero radius", name, 0.0, measure, images)

    def has_gradient(self, images: int) -> Task:
        """Whether the gradient at each image has an entry that is not zero."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            _, gradient = predict_and_differentiate(self.model, self.x[indices], self.y[indices], self.batch_size)
            return (gradient != 0).flatten(1).any(1), 0.0

        return self._task("gradient", "model", 0.0, measure, images)

    def has_agreeing_gradient(self, images: int) -> Task:
        """Whether the gradient at each image agrees with finite differences."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            draws = ImageDraws.by_key(indices.to(self.x.device), self.seed, "finite differences")
            return agrees_with_differences(self.model, self.x[indices], self.y[indices], draws, self.batch_size), 0.0

        return self._task("finite differences", "model", 0.0, measure, images)

    def has_repeated_logits(self, images: int) -> Task:
        """Whether each image has the same logits in a second evaluation, and in batches of half the size."""

        def measure(indices: Tensor) -> tuple[Tensor, float]:
            x = self.x[indices]
            size = min(self.batch_size, len(x))
            first, second, halves = (predict(self.model, x, b) for b in (size, size, -(-size // 2)))
            return same_logits(first, second) & same_logits(first, halves), 0.0

        return self._task("repeated logits", "model", 0.0, measure, images)

    def _perturb(self, name: str, attack: Attack, eps: float, indices: Tensor) -> Tensor:
        generator = ImageDraws.by_key(indices.to(self.x.device), self.seed, name, float(eps))
        return attack(self.model, self.x[indices], self.y[indices], eps, generator, self.batch_size)

    def _correct(self, x: Tensor, indices: Tensor) -> Tensor:
        return predict(self.model, x, self.batch_size).argmax(1) == self.y[indices]

    def _task(
        self,
        group: str,
        name: str,
        strength: float,
        measure: MeasureImages,
        images: int | None = None,
        attack: Attack | None = None,
    ) -> Task:
        settings, traits = ("", None) if attack is None else (repr(attack), attack.traits)
        no_results = torch.empty(0, dtype=torch.bool, device="cpu")
        column = Column(group, name, strength, no_results, settings=settings, traits=traits)
        return Task(column, len(self.x) if images is None else min(images, len(self.x)), measure)


def _measured(measure: MeasureImages, indices: Tensor) -> tuple[Tensor, float]:
    """The results of a share of the images, on the CPU. The share of a process may be empty."""
    if not len(indices):
        return torch.empty(0, dtype=torch.bool, device="cpu"), 0.0
    flags, overshoot = measure(indices)
    return flags.cpu(), overshoot
