"""One training run: everything that changes during it, how it takes a step, and its state as plain values."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dampode._checks import require_logits
from dampode.data import TrainingData, pixels
from dampode.training.execution import Execution
from dampode.training.history import History, chance_accuracy, lam_range
from dampode.training.margin_loss import MarginLoss
from dampode.training.processes import distributed
from dampode.training.recipe import Recipe, optimizer
from dampode.training.step_graph import StepGraph

__all__ = ["Run", "batches"]


class Run:
    """A model that is being trained by a recipe.

    ``epoch`` counts the epochs done, and ``step`` the steps done of the present epoch.

    Args:
        model: the classifier, in the memory layout of its images; it is put in train mode.
        data: images for the model's device. Every process draws the same order and augmentation, and reads its share.
        recipe: how to train.
        execution: how to compute the steps.
        seed: seed of shuffling and augmentation.
        layout: memory format of the images.
        processes: the processes that train together.
        loss: what the steps make small.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        recipe: Recipe,
        execution: Execution,
        seed: int,
        layout: torch.memory_format,
        processes: PartialState,
        loss: MarginLoss = MarginLoss(),
    ) -> None:
        self.loss = loss
        self.model, self.data, self.recipe, self.execution = model.train(), data, recipe, execution
        self.layout, self.processes = layout, processes
        self.device = data.device
        self.dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self.augmentation = recipe.augmentation or data.augmentation
        self.chance = chance_accuracy(data.y_train)
        self.optimizer = optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=execution.precision == "fp16")
        self.network: nn.Module = distributed(execution.compiled(model, layout), self.device, processes)
        self.recorded = StepGraph(self._step) if execution.step_graph else None
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.history = History([])
        self.step, self.seconds = 0, 0.0
        self.order = torch.empty(0, dtype=torch.int64, device=self.device)
        self.sums = torch.zeros(2, device=self.device)  # losses and correct answers over this epoch's images

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history.loss)

    def steps(self) -> Iterator[Tensor]:
        """Take the steps left in this epoch and yield their losses, (); then enter the epoch in the history."""
        if self.step == 0:
            self.order = torch.randperm(len(self.data.y_train), generator=self.generator, device=self.device)
        self._set_lr(self.recipe.lr_at(self.epoch))
        start = time.perf_counter()
        todo = batches(self.order, self.recipe)[self.step :]
        mine = [torch.cat(self._share(batch.tensor_split(self.recipe.micro_batches))) for batch in todo]
        for batch, (x, y) in zip(todo, self.data.batches(mine), strict=True):
            loss = self._take(x, y, self.augmentation.draw(len(batch), self.generator))
            self.step += 1
            now = time.perf_counter()
            self.seconds, start = self.seconds + now - start, now
            yield loss
        self._gather()
        loss_sum, correct = self.sums.tolist()
        seconds = self.seconds + time.perf_counter() - start  # by now a GPU has finished all its work
        n = len(self.order)
        self.history.add(loss_sum / n, correct / n, seconds, lam_range(self.model), self.chance)
        self.step, self.seconds = 0, 0.0
        self.sums.zero_()

    def _set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        if self.recorded is not None and any(group["lr"] != lr for group in self.optimizer.param_groups):
            self.recorded.forget()
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _share(self, pieces: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The micro-batches of this process, among the pieces of a batch."""
        return pieces[self.processes.process_index :: self.processes.num_processes]

    def _take(self, x: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
        """One step of SGD on this process's images and labels of a batch; returns a loss, ().

        Args:
            x: images (b, C, H, W).
            y: labels (b,).
            drawn: the draws of the augmentation for the whole batch, (3, B).
        """
        return (self._step if self.recorded is None else self.recorded)(x, y, drawn)

    def _step(self, x: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
        """The step of `_take`, launched kernel by kernel; returns the loss of the last micro-batch, ()."""
        draws = self._share(drawn.tensor_split(self.recipe.micro_batches, 1))
        sizes = [part.shape[1] for part in draws]
        self.optimizer.zero_grad()
        for k, piece in enumerate(zip(x.split(sizes), y.split(sizes), draws, strict=True)):
            last, network = k == len(sizes) - 1, self.network
            with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
                loss = self._loss(*piece)
                # the processes average their gradients; the factor turns that into the mean over the batch
                share = sizes[k] * self.processes.num_processes / drawn.shape[1]
                self.scaler.scale(loss * share).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _loss(self, x: Tensor, y: Tensor, drawn: Tensor) -> Tensor:
        """Mean loss of some training images, (), which is added to the epoch's sums."""
        images = pixels(self.augmentation.apply(x, drawn))
        x = images.to(self.dtype).contiguous(memory_format=self.layout)
        torch.compiler.cudagraph_mark_step_begin()
        with self.execution.forward(self.device):
            logits = self.network(x)
        require_logits(logits, len(x), self.data.num_classes)
        loss = self.loss(logits.float(), y)
        with torch.no_grad():
            self.sums += torch.stack([loss * len(y), (logits.argmax(1) == y).sum()])
        return loss

    def _gather(self) -> None:
        """Add the counts of all processes to those of the first."""
        if self.processes.num_processes > 1:
            total = reduce(self.sums.clone(), "sum")
            self.sums = total if self.processes.is_main_process else torch.zeros_like(total)

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint needs so that a resumed run ends with the same weights."""
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
        """Continue from a state.

        Raises:
            ValueError: the state is of another architecture, or a value in it is missing or of another type.
        """
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint must be of this architecture: {error}") from None
        try:
            self._load_progress(state)
        except (AttributeError, KeyError, IndexError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint must hold the progress of this run ({type(error).__name__}: {error}); "
                "remove it, or train into another file"
            ) from None

    def _load_progress(self, state: dict[str, Any]) -> None:
        """Continue from everything in a state but the weights."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["random"]["own"])
        rank, drawn = self.processes.process_index, state["random"]["torch"]
        if rank < len(drawn):  # an additional process keeps its own random state
            _set_torch_random(self.device, drawn[rank])
        position = state["position"]
        self.step, self.seconds = position["step"], position["seconds"]
        self.order, sums = position["order"].to(self.device), position["sums"].to(self.device)
        self.sums = sums if self.processes.is_main_process else torch.zeros_like(sums)
        self.history = history = History(**state["history"])
        if len({len(column) for column in (history.loss, history.accuracy, history.seconds, history.lam)}) > 1:
            raise TypeError("the columns of the history have different lengths")


def batches(order: Tensor, recipe: Recipe) -> list[Tensor]:
    """The images of each step. Batch norm cannot train on one image, so a short last batch joins the one before."""
    split = list(order.split(recipe.batch_size))
    if len(split) > 1 and len(split[-1]) < 2 * recipe.micro_batches:
        split[-2:] = [torch.cat(split[-2:])]
    return split


def _torch_random(device: torch.device) -> list[Tensor]:
    """States of torch's own generators, which layers such as dropout use: the CPU's and the device's."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_torch_random(device: torch.device, states: list[Tensor]) -> None:
    """Restore the states that `_torch_random` returned."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
