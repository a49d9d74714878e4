"""One job from nothing to its result file: train, measure, write. What exists already is not computed again."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common.record import provenance
from benchmarks.paper import results_file
from benchmarks.paper.plan.jobs import Job
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import (
    coefficients,
    columns,
    depth_in_effect,
    in_figure_2,
    landscapes,
    reports,
    sound_report,
)
from dampode import training
from dampode._files import only_writer
from dampode.data import ImageData
from dampode.robustness import Ensemble
from dampode.training.execution import Execution

__all__ = ["CHANCE", "checkpoint", "complete", "complete_sound", "partial_files", "reserved", "trained"]

CHANCE = 1.5
"""A network whose accuracy is at most this multiple of guessing has failed to train."""
REPORTS = ("noise", "attacks", "sound")


def complete(
    job: Job,
    images: ImageData,
    out: Path,
    results: Path,
    command: str,
    execution: Execution = Execution(),
) -> Result:
    """The result of a job: read if its file exists, else trained, measured and written.

    Args:
        job: what to run; an ensemble's members are complete already.
        images: the data set, already reduced to the scale, on the device to run on.
        out: folder of checkpoints and unfinished measurements.
        results: folder of results.
        command: the command line, which the result records.
        execution: precision, compilation and layout of training. Measurements are in fp32.

    Raises:
        ValueError: an existing file is damaged, edited, or of other settings, or an ensemble lacks a member; no file is
            overwritten.
    """
    path = results / f"{job.stem}.json"
    if path.exists():
        return results_file.read_for(path, job)
    if len(job.seeds) > 1:
        model, training_record = _ensemble(job, images, out, results, execution)
    else:
        model, training_record = _single(job, images, out, execution)
    content = {
        "provenance": provenance(command, job.seeds[0]),
        **_measured(job, model, images, out),
        "execution": asdict(execution),
        **training_record,
    }
    results_file.write(path, job.config, content)
    for report in ("noise", "attacks"):
        partial_files(job, out)[report].unlink(missing_ok=True)
    return results_file.read_for(path, job)


def complete_sound(
    job: Job, images: ImageData, out: Path, results: Path, command: str, execution: Execution = Execution()
) -> bool:
    """Measure the network of a complete job under a sound protocol too, in the folder "sound" of the results.

    Returns:
        Whether there is such a measurement now. There is none of a network that failed, whose weights were not kept, or
        whose result holds a sound attack already.

    Raises:
        ValueError: as `complete`.
    """
    result = results_file.read_for(results / f"{job.stem}.json", job)
    path = results_file.sound_path(results, job)
    if path.exists():
        results_file.read_for(path, job)
        return True
    members = [member for member in job.members if member.seeds[0] in result["members"]] or [job]
    if (
        job.scale.sound is not None
        or result["failed"]
        or not all(checkpoint(member, out).exists() for member in members)
    ):
        return False
    networks = [trained(member, images, out, execution)[0] for member in members]
    model = networks[0] if len(job.seeds) == 1 else Ensemble(networks)
    partial = partial_files(job, out)["sound"]
    report = sound_report(model, images, job, partial)
    content = {"provenance": provenance(command, job.seeds[0]), "report": json.loads(report.to_json())}
    results_file.write(path, job.config, content)
    partial.unlink(missing_ok=True)
    return True


def _measured(job: Job, model: nn.Module | None, images: ImageData, out: Path) -> dict[str, Any]:
    """What is measured on a network; without a network, the job has failed and nothing is measured."""
    if model is None:
        empty: dict[str, list[Any]] = {"coefficients": [], "landscapes": []}
        return {"failed": True, "accuracy": {}, "reports": None, "depth": None, **empty}
    found = reports(model, images, job, partial_files(job, out).__getitem__)
    return {
        "failed": found.noise.clean <= CHANCE / images.num_classes,
        "accuracy": columns(found),
        "reports": found.to_json(),
        "depth": depth_in_effect(model, images),
        "coefficients": coefficients(model),
        "landscapes": landscapes(model, images) if in_figure_2(job) else [],
    }


def _single(job: Job, images: ImageData, out: Path, execution: Execution) -> tuple[nn.Module | None, dict[str, Any]]:
    """The network of a job with one seed, or None if it diverged; and the record of its training."""
    model, history = trained(job, images, out, execution)
    finite = len(history.loss) - history.diverged  # JSON has no value for a loss that is not finite
    record = {name: getattr(history, name)[:finite] for name in ("loss", "accuracy", "seconds")}
    return (None if history.diverged else model), {"training": record, "members": []}


def _ensemble(
    job: Job, images: ImageData, out: Path, results: Path, execution: Execution
) -> tuple[nn.Module | None, dict[str, Any]]:
    """The ensemble of a job's networks that trained, or None if none did; and their seeds."""
    members = []
    for member in job.members:
        result, weights = results / f"{member.stem}.json", checkpoint(member, out)
        for required in (result, weights):
            if not required.exists():
                raise ValueError(
                    f"{job.stem} needs its members, and {required} does not exist; run {member.stem} first"
                )
        if not results_file.read_for(result, member)["failed"]:
            members.append(member)
    model = Ensemble([trained(member, images, out, execution)[0] for member in members]) if members else None
    return model, {"training": None, "members": [member.seeds[0] for member in members]}


def trained(job: Job, images: ImageData, out: Path, execution: Execution) -> tuple[nn.Module, training.History]:
    """The network of a job with one seed and its history; training resumes from the job's checkpoint."""
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
        identity={"job": job.config},
        label=job.stem,
        execution=execution,
    )
    return model, history


def checkpoint(job: Job, out: Path) -> Path:
    """The file of a job's weights."""
    return out / f"{job.stem}.pt"


def partial_files(job: Job, out: Path) -> dict[str, Path]:
    """The file of each unfinished report."""
    return {report: out / f"{job.stem}.{report}.partial.json" for report in REPORTS}


@contextmanager
def reserved(job: Job, out: Path) -> Iterator[bool]:
    """Reserve a job for this process; False if another process has it. A process that dies releases it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(out / job.stem))
            free = True
        except OSError:
            free = False
        yield free
