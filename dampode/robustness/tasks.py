"""One column of a report at a time, block by block, through a ledger of what is finished."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dampode.robustness.attacks.settings import Attack
from dampode.robustness.classifier import predict, predict_and_differentiate, same_logits
from dampode.robustness.noise.sources import NoiseSource, blocks, stream
from dampode.robustness.progress_file import Ledger
from dampode.robustness.report import Column, pack, unpack

Block = Callable[[slice, int], tuple[Tensor, float]]
"""Measures a block, given its images and its index: a flag an image, and how far x' left its ball."""


@dataclass(frozen=True)
class Task:
    """A column still without results, to be measured on the first ``images`` images."""

    column: Column
    images: int
    measure: Block


@dataclass(frozen=True)
class Measuring:
    """What every column is measured with: the classifier in eval mode, images, labels, seed, and what is finished."""

    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    ledger: Ledger

    def column(self, task: Task, step: Callable[[], None]) -> Column:
        """Measure a task, but for the blocks that are finished; ``step`` is called after each block."""
        column, parts, excess = task.column, [], 0.0
        for index, block in enumerate(blocks(task.images)):
            key = f"{column.group}/{column.name}/{column.strength!r}/{index}"
            if key not in self.ledger.finished:
                flags, beyond = task.measure(block, index)
                self.ledger.add(key, {"correct": pack(flags), "excess": beyond})
            done = self.ledger.finished[key]
            parts.append(unpack(str(done["correct"]), block.stop - block.start))
            excess = max(excess, float(done["excess"]))
            step()
        return replace(column, correct=torch.cat(parts), excess=excess)

    def clean(self) -> Task:
        """The images as they are."""
        return self._task("clean", "clean", "clean", 0.0, lambda block, _: (self._right(self.x[block], block), 0.0))

    def noisy(self, source: NoiseSource, name: str, severity: int) -> Task:
        """A noise at a severity."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            return self._right(source.block(name, severity, index), block), 0.0

        return self._task("noise", name, name, float(severity), measure)

    def attacked(self, name: str, attack: Attack, eps: float) -> Task:
        """An attack at a radius."""
        measure = self._attack(attack, eps, name)
        return self._task("attack", name, type(attack).__name__, float(eps), measure, how=repr(attack))

    def probe(self, name: str, kind: str, attack: Attack, eps: float, draws: str, images: int) -> Task:
        """An attack for the laws; those of the same ``draws`` at the same radius begin with the same random start."""
        return self._task("probe", name, kind, float(eps), self._attack(attack, eps, draws), images, repr(attack))

    def unmoved(self, name: str, attack: Attack, images: int) -> Task:
        """Whether an attack leaves an image alone at ε = 0."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            moved = self._move(attack, 0.0, name, block, index)
            return (moved == self.x[block]).flatten(1).all(1), 0.0

        return self._task("probe", f"{name} at 0", "zero", 0.0, measure, images)

    def gradient(self, images: int) -> Task:
        """Whether the gradient at an image has any entry that is not zero."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            _, gradient = predict_and_differentiate(self.model, self.x[block], self.y[block], self.batch_size)
            return (gradient != 0).flatten(1).any(1), 0.0

        return self._task("probe", "gradient", "gradient", 0.0, measure, images)

    def repeated(self, images: int) -> Task:
        """Whether an image has the same logits when asked again, and in a batch of half the size."""

        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            x = self.x[block]
            size = min(self.batch_size, len(x))
            first, again, halves = (predict(self.model, x, b) for b in (size, size, -(-size // 2)))
            return same_logits(first, again) & same_logits(first, halves), 0.0

        return self._task("probe", "logits asked again", "repeated", 0.0, measure, images)

    def _attack(self, attack: Attack, eps: float, draws: str) -> Block:
        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            moved = self._move(attack, eps, draws, block, index)
            beyond = [(moved - self.x[block]).abs().max() - attack.reach * eps, -moved.min(), moved.max() - 1]
            return self._right(moved, block), max(0.0, *(b.item() for b in beyond))

        return measure

    def _move(self, attack: Attack, eps: float, draws: str, block: slice, index: int) -> Tensor:
        generator = stream(self.x.device, self.seed, draws, float(eps), index)
        return attack(self.model, self.x[block], self.y[block], eps, generator, self.batch_size)

    def _right(self, x: Tensor, block: slice) -> Tensor:
        return predict(self.model, x, self.batch_size).argmax(1) == self.y[block]

    def _task(
        self,
        group: str,
        name: str,
        kind: str,
        strength: float,
        measure: Block,
        images: int | None = None,
        how: str = "",
    ) -> Task:
        column = Column(group, name, kind, strength, torch.empty(0, dtype=torch.bool), how=how)
        return Task(column, len(self.x) if images is None else min(images, len(self.x)), measure)
