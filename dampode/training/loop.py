"""`fit`: a training run from its start, or from its last checkpoint, to its end."""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dampode._checks import as_seed, require_instance, require_positive_int
from dampode._files import is_there, only_writer, user_path
from dampode._identity import plain, require_same
from dampode.data import ImageData, ImageStream, TrainingData
from dampode.models.weights_file import architecture, require_architecture
from dampode.training.checkpoint import load_checkpoint, save_checkpoint
from dampode.training.execution import Execution
from dampode.training.history import History
from dampode.training.logs import Log
from dampode.training.margin_loss import MarginLoss
from dampode.training.processes import own_random, processes, require_precision_of_launcher
from dampode.training.recipe import Recipe
from dampode.training.run import Run, batches

__all__ = ["fit", "require_compatible"]


def fit(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, object] | None = None,
    label: str = "training",
    execution: Execution = Execution(),
    loss: MarginLoss = MarginLoss(),
    checkpoint_every: int | None = None,
    logs: str | Path | None = None,
    tensorboard: bool = False,
) -> History:
    """Train a classifier of pixels in place, on the device that holds it and the data.

    The whole model is put in train mode, and left in it; that includes layers that were frozen by ``eval()``. Its
    images have the dtype of its parameters.

    ``seed`` seeds everything that is drawn: order, augmentation, and layers such as dropout, which draw separately in
    each process. Torch's global random state neither matters nor changes. An epoch whose loss is not finite ends the
    run, and the history says so.

    With a checkpoint path, every epoch ends with an atomic write of weights, optimizer, random states and the position
    in the data; ``checkpoint_every`` adds writes within an epoch. ``resume`` continues from that file. On a CPU the
    resumed run ends with the same weights, bit for bit, as an uninterrupted run.

    Under `accelerate launch` or `torchrun` each process calls this function with its own copy of the model and of all
    data, on its own device, and computes its share of every batch (``recipe.micro_batches``). Of an `ImageStream` it
    reads that share only. Only the first process writes. The running statistics of batch norm are those of the first
    process.

    Args:
        model: the classifier; training starts from its weights.
        data: images on the model's device, or an `ImageStream` whose batches are moved there.
        recipe: how to train.
        seed: seed of shuffling, augmentation and random layers.
        checkpoint: the file that every epoch overwrites.
        resume: whether to continue from the checkpoint if the file exists.
            The recipe may then have other epochs and milestones, if the epochs done keep their learning rates.
        identity: anything else that defines this run, such as the model's depth and range of λ: strings, numbers, lists
            and nested mappings of them. A checkpoint with another identity, recipe, execution, loss, seed, data,
            device, frozen parameters or `dampode.models.architecture` is refused.
        label: name on the progress bar.
        execution: precision, compilation, memory layout.
        loss: what to make small: cross entropy, with a margin if it has one.
        checkpoint_every: steps between checkpoints within an epoch; None for none.
        logs: folder of log.csv, one row per epoch; None for no log.
        tensorboard: whether TensorBoard events are written to that folder too.

    Returns:
        The history, resumed epochs included.

    Raises:
        ValueError: the batch is larger than the training set; the model has fewer logits than the data has classes; the
            checkpoint is damaged, of another run or of another architecture, or cannot name a function of the model (a
            lambda); a setting does not fit the device, the processes or `accelerate launch`; a setting about a file has
            no path.
        TypeError: model, data, recipe or execution is of another type, seed or checkpoint_every is not an int, or the
            identity holds a value of another type.
        ImportError: TensorBoard is asked for and not installed.
        OSError: a file cannot be written, or another run is writing it.
    """
    seed = as_seed(seed)
    _require_types(model, data, recipe, execution, loss)
    require_precision_of_launcher(execution)
    together = processes(data.device)
    require_compatible(model, data, recipe, execution, together.num_processes)
    _require_paths(checkpoint, resume, checkpoint_every, logs, tensorboard)
    settings = _settings(model, data, recipe, execution, loss, seed, plain(identity or {}, "identity"))
    file = None if checkpoint is None else user_path(checkpoint)
    described = None if file is None else architecture(model)
    with ExitStack() as stack:
        if file is not None and together.is_main_process:
            stack.enter_context(only_writer(file))
        stack.enter_context(own_random(seed, data.device, together))
        stack.enter_context(torch.autocast(data.device.type, enabled=False))  # a caller's would change backward
        layout = stack.enter_context(execution.layout(model, data.device))
        run = Run(model, data, recipe, execution, seed, layout, together, loss)
        if resume and file is not None and is_there(file):
            state = load_checkpoint(file)
            _require_settings(file, state, settings, recipe)
            require_architecture(model, state["architecture"], file)
            run.load(state)

        def save() -> None:
            if file is not None:
                state = run.state()  # called by every process, because the processes add up their counts
                if together.is_main_process:
                    save_checkpoint(file, {"settings": settings, "architecture": described, **state})

        log = None
        if logs is not None and together.is_main_process:
            log = stack.enter_context(Log(user_path(logs), recipe, len(data.y_train), run.history, tensorboard))
        _train(run, label, log, save, checkpoint_every)
        return run.history


def _train(run: Run, label: str, log: Log | None, save: Callable[[], None], checkpoint_every: int | None) -> None:
    """Take all steps that are left, with logs and checkpoints, and a progress bar or, without a terminal, lines."""
    epochs, shown = run.recipe.epochs, run.processes.is_main_process
    steps = len(batches(torch.arange(len(run.data.y_train)), run.recipe))
    with tqdm(
        total=epochs * steps,
        initial=run.epoch * steps + run.step,
        desc=label,
        unit="step",
        mininterval=0.5,
        disable=not (shown and sys.stderr.isatty()),
    ) as bar:
        while run.epoch < epochs and not run.history.diverged:
            for loss in run.steps():
                bar.update()
                if run.step % 20 == 1:
                    bar.set_postfix(loss=f"{loss.item():.3f}")  # waits for the device, so not at every step
                if checkpoint_every is not None and run.step % checkpoint_every == 0 and run.step < steps:
                    save()
            if shown and not sys.stderr.isatty():
                print(f"{label}: {run.history.last_epoch(epochs)}", file=sys.stderr, flush=True)
            if log is not None:
                log.write(run.history)  # before the checkpoint, so that the log never lacks an epoch
            save()


def _require_settings(file: Path, state: dict[str, Any], here: dict[str, Any], recipe: Recipe) -> None:
    """Raise unless the run of a checkpoint is a beginning of this run.

    Epochs and milestones may differ if the epochs that were done or begun have the same learning rates under both.
    """
    there = state["settings"]
    schedule: dict[str, Any] = {key: (there.get("recipe") or {}).get(key) for key in ("epochs", "milestones")}
    asked = {**here, "recipe": {**here["recipe"], **schedule}}
    require_same(file, there, asked, "resume with the settings there, or choose another file")
    earlier = replace(recipe, **schedule)
    done = len(state["history"].get("loss") or []) + bool(state["position"].get("step"))
    if done > recipe.epochs:
        raise ValueError(f"recipe.epochs must be at least the epochs in {file}, got {recipe.epochs} for {done}")
    for epoch in range(done):
        if earlier.lr_at(epoch) != recipe.lr_at(epoch):
            kept = tuple(max(1, round(share * earlier.epochs)) / recipe.epochs for share in earlier.milestones)
            raise ValueError(
                f"{file} can only be resumed with the learning rates of its epochs: epoch {epoch + 1} of {done} had "
                f"{earlier.lr_at(epoch):g} and has {recipe.lr_at(epoch):g} under the new recipe, whose milestones are "
                f"shares of {recipe.epochs} epochs; use milestones={kept}, or choose another file"
            )


def _settings(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    execution: Execution,
    loss: MarginLoss,
    seed: int,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings that define a run; a checkpoint can only be resumed with the same settings."""
    return {
        "recipe": asdict(recipe),
        "execution": asdict(execution),
        "loss": asdict(loss),
        "seed": seed,
        "data": {"name": data.name, "images": len(data.y_train), "sha256": data.digest()},
        "augmentation": asdict(recipe.augmentation or data.augmentation),
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "device": data.device.type,
        "identity": identity,
    }


def _require_types(model: Any, data: Any, recipe: Any, execution: Any, loss: Any) -> None:
    """Raise a TypeError unless every argument is of its type."""
    for value, kind, name in (
        (model, nn.Module, "model"),
        (data, (ImageData, ImageStream), "data"),
        (recipe, Recipe, "recipe"),
        (execution, Execution, "execution"),
        (loss, MarginLoss, "loss"),
    ):
        require_instance(value, kind, name)


def _require_paths(
    checkpoint: str | Path | None,
    resume: bool,
    checkpoint_every: int | None,
    logs: str | Path | None,
    tensorboard: bool,
) -> None:
    """Raise unless every setting about a file has the path of that file."""
    if checkpoint_every is not None:
        require_positive_int(checkpoint_every, "checkpoint_every")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every are about a checkpoint, got checkpoint=None; name its file")
    if logs is None and tensorboard:
        raise ValueError("TensorBoard events are written to the folder of the logs, got logs=None; name it")


def require_compatible(model: nn.Module, data: TrainingData, recipe: Recipe, execution: Execution, count: int) -> None:
    """Raise unless model, data, recipe and execution fit together on ``count`` processes."""
    n, device = len(data.y_train), data.device
    devices = {p.device for p in model.parameters()}
    if devices - {device}:
        raise ValueError(f"model and data must be on one device, got {devices} and {device}; move one with .to")
    if not any(p.requires_grad for p in model.parameters()) or not torch.is_grad_enabled():
        raise ValueError(
            "there must be something to train, got no parameter that wants a gradient, or torch.no_grad or "
            "inference_mode around fit"
        )
    if recipe.batch_size > n:
        raise ValueError(f"batch_size must not exceed the training set, got {recipe.batch_size} for {n} images")
    if recipe.micro_batches % count:
        raise ValueError(
            f"micro_batches must be a multiple of the number of processes, got {recipe.micro_batches} for {count} "
            f"processes; use Recipe(micro_batches={count})"
        )
    if execution.step_graph and (device.type != "cuda" or count > 1):
        raise ValueError(
            f"step_graph needs one process on a CUDA device, got {count} on {device.type}; use step_graph=False"
        )
    if execution.compile == "reduce-overhead" and recipe.micro_batches > count:
        raise ValueError(
            f"compile='reduce-overhead' takes one micro-batch per process, got {recipe.micro_batches} for {count}: "
            "its CUDA graphs would overwrite the gradients to be summed; use compile='default'"
        )
