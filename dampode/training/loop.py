"""`fit`: a run from its start, or from its last checkpoint, to its end."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from dampode._checks import as_seed, require_instance, require_positive_int
from dampode._files import only_writer
from dampode._identity import fingerprint, plain, require_same
from dampode.data import ImageData
from dampode.models.weights_file import architecture, require_architecture
from dampode.training.checkpoint import load_checkpoint, save_checkpoint
from dampode.training.execution import Execution
from dampode.training.history import History
from dampode.training.logs import Log
from dampode.training.processes import processes
from dampode.training.recipe import Recipe
from dampode.training.run import Run, batches


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, str | int | float] | None = None,
    label: str = "training",
    execution: Execution = Execution(),
    checkpoint_every: int | None = None,
    logs: str | Path | None = None,
    tensorboard: bool = False,
) -> History:
    """Train a classifier of pixels in place, on the device where it and the data are.

    The model is put in train mode as a whole, layers frozen by ``eval()`` too, and left in it. Its images have
    its parameters' dtype.

    Shuffling and augmentation draw from a generator of their own, seeded here. An epoch whose loss is not finite ends
    the run and is said in the history. With a checkpoint path, every epoch, and every ``checkpoint_every`` steps within
    one, ends with an atomic write of weights, optimizer, random states and the place in the data; ``resume`` goes on
    from it, on a CPU to the same weights, bit for bit, as the run that was not interrupted.

    Under `accelerate launch` or `torchrun` each process calls this with its own copy of the model and of all data, on
    its own device, and takes its share of every batch (``recipe.parts``). The first process alone writes, and its
    batch norm running statistics, those of its share, are everyone's.

    Args:
        model: the classifier; its own weights are the start.
        data: images on the model's device.
        recipe: how to train.
        seed: seed of shuffling and augmentation.
        checkpoint: file that every epoch overwrites.
        resume: whether to go on from the checkpoint if it is there.
        identity: what else makes this run what it is, such as the model's depth and λ range; a checkpoint with
            another identity, recipe, execution, seed, data, device, frozen parameters or
            `dampode.models.architecture` is refused.
        label: name on the progress bar.
        execution: precision, compilation, memory layout.
        checkpoint_every: steps between checkpoints within an epoch; None for none.
        logs: folder of log.csv, a row an epoch; None for no log.
        tensorboard: whether TensorBoard's events are written there too.

    Returns:
        The history, resumed epochs included.

    Raises:
        ValueError: the batch is larger than the set, the model has fewer logits than the data has classes, the
            checkpoint is damaged or of another run or architecture, or cannot name a function of the model (a lambda),
            a setting does not fit the device or the processes, or one that is about a file comes without its path.
        TypeError: model, data, recipe or execution is of another type, seed or checkpoint_every no int, or the identity
            holds what is neither string nor number.
        ImportError: TensorBoard is asked for and not installed.
        OSError: a file cannot be written, or another run is writing it.
    """
    for value, kind, name in (
        (model, nn.Module, "model"),
        (data, ImageData, "data"),
        (recipe, Recipe, "recipe"),
        (execution, Execution, "execution"),
    ):
        require_instance(value, kind, name)
    seed = as_seed(seed)
    together = processes(data.x_train.device)
    _require_fit(model, data, recipe, execution, together.num_processes)
    if checkpoint_every is not None:
        require_positive_int(checkpoint_every, "checkpoint_every")
    if checkpoint is None and (resume or checkpoint_every is not None):
        raise ValueError("resume and checkpoint_every are about a checkpoint, got checkpoint=None; name its file")
    if logs is None and tensorboard:
        raise ValueError("TensorBoard's events are written into the folder of the logs, got logs=None; name it")
    file = None if checkpoint is None else Path(checkpoint)
    settings = {
        "recipe": asdict(recipe),
        "execution": asdict(execution),
        "seed": seed,
        "data": {"name": data.name, "images": len(data.x_train), "sha256": fingerprint(data.x_train, data.y_train)},
        "augmentation": asdict(recipe.augmentation or data.augmentation),
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "device": data.x_train.device.type,
        "identity": plain(identity or {}, "identity"),
    }
    described = None if file is None else architecture(model)
    with ExitStack() as stack:
        if file is not None and together.is_main_process:
            stack.enter_context(only_writer(file))
        layout = stack.enter_context(execution.layout(model, data.x_train.device))
        run = Run(model, data, recipe, execution, seed, layout, together)
        if resume and file is not None and file.exists():
            state = load_checkpoint(file)
            require_same(
                file, state["settings"], settings, "resume with the settings in the file, or choose another file"
            )
            require_architecture(model, state["architecture"], file)
            run.load(state)

        def save() -> None:
            if file is not None:
                state = run.state()  # by every process: they sum what they counted
                if together.is_main_process:
                    save_checkpoint(file, {"settings": settings, "architecture": described, **state})

        log = None
        if logs is not None and together.is_main_process:
            log = stack.enter_context(Log(Path(logs), recipe, len(data.x_train), run.history, tensorboard))
        steps = len(batches(torch.arange(len(data.x_train)), recipe))
        done = run.epoch * steps + run.step
        bar = stack.enter_context(
            tqdm(
                total=recipe.epochs * steps,
                initial=done,
                desc=label,
                unit="step",
                mininterval=0.5,
                disable=not together.is_main_process,
            )
        )
        while run.epoch < recipe.epochs and not run.history.diverged:
            for loss in run.steps():
                bar.update()
                if run.step % 20 == 1:
                    bar.set_postfix(loss=f"{loss.item():.3f}")  # a host sync, so not at every step
                if checkpoint_every is not None and run.step % checkpoint_every == 0 and run.step < steps:
                    save()
            if log is not None:
                log.write(run.history)  # before the checkpoint, so that no epoch is ever missing
            save()
        return run.history


def _require_fit(model: nn.Module, data: ImageData, recipe: Recipe, execution: Execution, everyone: int) -> None:
    """Refuse in words what model, data, recipe and processes cannot do together."""
    n, device = len(data.x_train), data.x_train.device
    places = {p.device for p in model.parameters()}
    if places - {device}:
        raise ValueError(f"model and data must be on one device, got {places} and {device}; move one with .to")
    if not any(p.requires_grad for p in model.parameters()) or not torch.is_grad_enabled():
        raise ValueError(
            "there must be something to train, got no parameter that wants a gradient, or torch.no_grad or "
            "inference_mode around fit"
        )
    if recipe.batch_size > n:
        raise ValueError(f"batch_size must not exceed the training set, got {recipe.batch_size} for {n} images")
    if recipe.parts % everyone:
        raise ValueError(
            f"parts must be a multiple of the number of processes, got {recipe.parts} for {everyone} processes; "
            f"use Recipe(parts={everyone})"
        )
    if execution.step_graph and (device.type != "cuda" or everyone > 1):
        raise ValueError(
            f"step_graph records CUDA graphs of one process alone, got {device.type} and {everyone} processes; "
            "leave it off"
        )
    if execution.compile == "reduce-overhead" and recipe.parts > everyone:
        raise ValueError(
            f"compile='reduce-overhead' takes one part a process, got {recipe.parts} for {everyone}: CUDA graphs "
            "would overwrite the gradients to be summed; use compile='default'"
        )
