"""One training run: all that moves during it, how it takes a step, and its state as plain values."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from dampode._checks import require_logits
from dampode.data import ImageData, pixels
from dampode.training.execution import Execution
from dampode.training.history import History, chance_accuracy, lam_range
from dampode.training.recipe import Recipe, optimizer
from dampode.training.step_graph import StepGraph


class Run:
    """A model on its way through a recipe.

    ``epoch`` and ``step`` say where it stands: whole epochs done, and steps of the epoch under way.

    Args:
        model: the classifier, in the layout of its images; it is set to training mode.
        data: images on the model's device; every process holds all of them and draws the same order and augmentation.
        recipe, execution: how to train.
        seed: of shuffling and augmentation.
        layout: memory format of the images.
        processes: who trains together.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        recipe: Recipe,
        execution: Execution,
        seed: int,
        layout: torch.memory_format,
        processes: Accelerator,
    ) -> None:
        self.model, self.data, self.recipe, self.execution = model.train(), data, recipe, execution
        self.layout, self.processes = layout, processes
        self.device = data.x_train.device
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.augmentation = recipe.augmentation or data.augmentation
        self.chance = chance_accuracy(data.y_train)
        self.optimizer = optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=execution.precision == "fp16")
        self.network: nn.Module = processes.prepare_model(execution.compiled(model, layout))
        self.recorded = StepGraph(self._step) if execution.step_graph else None
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.history = History([])
        self.step, self.seconds = 0, 0.0
        self.order = torch.empty(0, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(2, device=self.device)  # of losses and of right answers, over this epoch's images

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return len(self.history.loss)

    def steps(self) -> Iterator[Tensor]:
        """Take the steps of this epoch that are left, giving each one's last loss, (); then enter it in the history."""
        if self.step == 0:
            self.order = torch.randperm(len(self.data.x_train), generator=self.generator, device=self.device)
        self._set_lr(self.recipe.lr_at(self.epoch))
        start = time.perf_counter()
        for batch in batches(self.order, self.recipe)[self.step :]:
            loss = self._take(batch)
            self.step += 1
            now = time.perf_counter()
            self.seconds, start = self.seconds + now - start, now
            yield loss
        self._gather()
        loss_sum, right = self.sums.tolist()
        seconds = self.seconds + time.perf_counter() - start  # a GPU's queue has now run empty
        n = len(self.order)
        self.history.add(loss_sum / n, right / n, seconds, lam_range(self.model), self.chance)
        self.step, self.seconds = 0, 0.0
        self.sums.zero_()

    def _set_lr(self, lr: float) -> None:
        """The learning rate from here on."""
        if self.recorded is not None and any(group["lr"] != lr for group in self.optimizer.param_groups):
            self.recorded.forget()
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _take(self, batch: Tensor) -> Tensor:
        """One step of SGD on the images of a batch, (B,); returns a loss, ()."""
        step = self._step if self.recorded is None else self.recorded
        return step(batch, self.augmentation.draw(len(batch), self.generator))

    def _step(self, batch: Tensor, drawn: Tensor) -> Tensor:
        """The step with given draws, (3, B); returns the loss of the last part computed here, ()."""
        everyone, rank = self.processes.num_processes, self.processes.process_index
        parts = self.recipe.parts
        mine = list(zip(batch.tensor_split(parts), drawn.tensor_split(parts, 1), strict=True))[rank::everyone]
        self.optimizer.zero_grad()
        for k, (chosen, draws) in enumerate(mine):
            last = k == len(mine) - 1
            with nullcontext() if last else self.processes.no_sync(self.network):
                loss = self._loss(chosen, draws)
                # processes average their gradients: the factor makes that the mean over the batch
                self.scaler.scale(loss * (len(chosen) * everyone / len(batch))).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _loss(self, chosen: Tensor, drawn: Tensor) -> Tensor:
        """Mean loss of some training images, (), entered in the epoch's sums."""
        images = pixels(self.augmentation.apply(self.data.x_train[chosen], drawn))
        x = images.to(self.dtype).contiguous(memory_format=self.layout)
        y = self.data.y_train[chosen]
        torch.compiler.cudagraph_mark_step_begin()
        with self.execution.forward(self.device):
            logits = self.network(x)
        require_logits(logits, len(x), self.data.num_classes)
        loss = F.cross_entropy(logits.float(), y)
        with torch.no_grad():
            self.sums += torch.stack([loss * len(y), (logits.argmax(1) == y).sum()])
        return loss

    def _gather(self) -> None:
        """Sum what the processes have counted, into the first one's counters."""
        if self.processes.num_processes > 1:
            total = self.processes.reduce(self.sums.clone(), "sum")
            self.sums = total if self.processes.is_main_process else torch.zeros_like(total)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs to go on to the same weights."""
        self._gather()
        position = {"step": self.step, "order": self.order, "sums": self.sums, "seconds": self.seconds}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": {"own": self.generator.get_state(), "torch": gather_object([_torch_random(self.device)])},
            "position": position,
            "history": asdict(self.history),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of another architecture.
        """
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint must be of this architecture: {error}") from None
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["random"]["own"])
        rank, drawn = self.processes.process_index, state["random"]["torch"]
        if rank < len(drawn):  # a process more than there were draws on as it is
            _set_torch_random(self.device, drawn[rank])
        position = state["position"]
        self.step, self.seconds = position["step"], position["seconds"]
        self.order, sums = position["order"].to(self.device), position["sums"].to(self.device)
        self.sums = sums if self.processes.is_main_process else torch.zeros_like(sums)
        self.history = History(**state["history"])


def batches(order: Tensor, recipe: Recipe) -> list[Tensor]:
    """The images of each step. Batch norm cannot train on one, so a last batch with fewer than two a part joins."""
    split = list(order.split(recipe.batch_size))
    if len(split) > 1 and len(split[-1]) < 2 * recipe.parts:
        split[-2:] = [torch.cat(split[-2:])]
    return split


def _torch_random(device: torch.device) -> list[Tensor]:
    """States of torch's own generators, for layers that draw, such as dropout: the CPU's and the device's."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_torch_random(device: torch.device, states: list[Tensor]) -> None:
    """Restore what `_torch_random` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
