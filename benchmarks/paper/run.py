"""One job from nothing to its result: train, measure, write. Whatever is there already is not done again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from benchmarks.common.record import provenance
from benchmarks.paper import landscapes
from benchmarks.paper import results_file as store
from benchmarks.paper.jobs import Job
from benchmarks.paper.measure import Measured, measure
from dampode import models, training
from dampode.block import DampedBlock
from dampode.data import ImageData
from dampode.robustness import Ensemble
from dampode.training.execution import Execution

CHANCE = 1.5
"""A network whose accuracy is at most this many times that of guessing has failed to train."""


def complete(
    job: Job,
    images: ImageData,
    out: Path,
    results: Path,
    command: str,
    execution: Execution = Execution(),
) -> dict[str, Any]:
    """The result of a job: read where it is there, else trained, measured and written.

    Args:
        job: what to run; an ensemble's members are complete.
        images: the data set, already cut to the scale, on the device to run on.
        out: folder of checkpoints and of what is measured so far.
        results: folder of results.
        command: how this was called.
        execution: precision, compilation and layout of training; measurements are in fp32.

    Raises:
        ValueError: a file that is there is damaged, edited, or of other settings, or an ensemble lacks a member;
            nothing is then overwritten.
    """
    path = results / f"{job.stem}.json"
    if path.exists():
        return store.read_for(path, job)
    if len(job.seeds) > 1:
        model, about = ensemble(job, images, out, results, execution)
    else:
        model, about = single(job, images, out, execution)
    accuracy = {} if model is None else measured(job, model, images, out)
    content = {
        "provenance": provenance(command, job.seeds[0]),
        "failed": model is None or accuracy["acc"] <= CHANCE / images.num_classes,
        "accuracy": accuracy,
        "coefficients": [] if model is None else coefficients(model),
        "execution": asdict(execution),
        **about,
    }
    if model is not None and landscapes.shown(job):
        content["landscapes"] = landscapes.around(model, images)
    store.write(path, job.config, content)
    partial(job, out).unlink(missing_ok=True)
    return store.read_for(path, job)


def single(job: Job, images: ImageData, out: Path, execution: Execution) -> tuple[nn.Module | None, dict[str, Any]]:
    """The network of a job's one seed, or None where it diverged; and its training, epoch by epoch."""
    model, history = trained(job, images, out, execution)
    whole = len(history.loss) - history.diverged  # a loss that is not finite has no place in JSON
    kept = {name: getattr(history, name)[:whole] for name in ("loss", "accuracy", "seconds")}
    return (None if history.diverged else model), {"training": kept}


def ensemble(
    job: Job, images: ImageData, out: Path, results: Path, execution: Execution
) -> tuple[nn.Module | None, dict[str, Any]]:
    """The ensemble of a job's networks that trained, or None where none did; and their seeds."""
    standing = []
    for member in job.members:
        result, weights = results / f"{member.stem}.json", checkpoint(member, out)
        for needed in (result, weights):
            if not needed.exists():
                raise ValueError(f"{job.stem} needs its members, and {needed} is not there; run {member.stem} first")
        if not store.read_for(result, member)["failed"]:
            standing.append(member)
    model = Ensemble([trained(member, images, out, execution)[0] for member in standing]) if standing else None
    return model, {"members": [member.seeds[0] for member in standing]}


def trained(job: Job, images: ImageData, out: Path, execution: Execution) -> tuple[nn.Module, training.History]:
    """The network of a job's one seed, trained as far as its checkpoint is not, and its history."""
    (seed,) = job.seeds
    torch.manual_seed(seed)
    model = job.row.build(images.num_classes, job.protocol, job.scale).to(images.x_train.device)
    history = training.fit(
        model,
        images,
        job.recipe,
        seed=seed,
        checkpoint=checkpoint(job, out),
        resume=True,
        identity={"job": json.dumps(job.config, sort_keys=True)},
        label=job.stem,
        execution=execution,
    )
    return model, history


def measured(job: Job, model: nn.Module, images: ImageData, out: Path) -> dict[str, Measured]:
    """Every column; each is written down at once, and is not measured again."""
    path = partial(job, out)
    done: dict[str, Measured] = store.read_for(path, job)["accuracy"] if path.exists() else {}
    columns = measure(model, images, job.scale.attacked_images, job.protocol, job.seeds[0], tuple(done))
    for key, value in columns:
        done[key] = value
        store.write(path, job.config, {"accuracy": done}, replace=True)
    return done


def coefficients(model: nn.Module) -> list[float]:
    """λ_n after training; none for a gate, which has no one value, nor for an ensemble."""
    blocks = [module for module in model.modules() if isinstance(module, DampedBlock)]
    gated = any(block.func.damping.depends_on_state for block in blocks)
    return [] if gated or isinstance(model, Ensemble) else models.coefficients(model)


def checkpoint(job: Job, out: Path) -> Path:
    """Where a job's weights are."""
    return out / f"{job.stem}.pt"


def partial(job: Job, out: Path) -> Path:
    """Where a job's columns are while some are missing."""
    return out / f"{job.stem}.partial.json"


@contextmanager
def claimed(job: Job, out: Path) -> Iterator[bool]:
    """Whether this process has the job to itself; a process that dies gives it back."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / f".{job.stem}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
