"""Train and measure the networks behind a table, figure or experiment; each result is one file.

    python -m benchmarks.paper table1 --dataset cifar10 --seeds 0 1 2 3 4 --scale full --root data
    python -m benchmarks.paper next --minutes 9 --root data      the next missing results, within nine minutes
    python -m benchmarks.paper next --precision bf16 --compile blocks --step-graph   faster, on CUDA
    python -m benchmarks.paper ablation --scale small --seeds 0 1 2
    python -m benchmarks.paper depth --scale fit --dataset cifar10 --seeds 0 1 2     minutes per row on a CPU

The target is table1 to table14, figure1 to figure8, next, or an experiment that the paper lacks:

- ablation, lambda_ablation: where the robustness comes from
- fewer_epochs: what robustness a plain network has that is only as accurate as a damped one
- depth: what robustness a shallower plain network has

A run may be stopped at any moment and started again. Results under benchmarks/results/paper/ are never computed twice
or overwritten; checkpoints lie under --out. Several processes may share both folders.

Each network is measured twice: under the paper's attacks, and under attacks whose steps scale with ε, in the folder
sound/ of the results. A complete result whose checkpoint still lies under --out gets the second measurement by the same
command. At scale fit one measurement holds both.

`python -m benchmarks.paper.parallel` runs several rows at once on one device, in a limited time.
`python -m benchmarks.paper.render` then writes docs/paper.md.
"""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import torch
import tyro

from benchmarks.paper import results_file
from benchmarks.paper.plan.jobs import Job, jobs_of
from benchmarks.paper.plan.protocols import PROTOCOLS, SCALES
from benchmarks.paper.results_file import RESULTS, Result
from benchmarks.paper.run.complete_job import checkpoint, complete, complete_sound, partial_files, reserved
from benchmarks.paper.run.simplified_images import simplified
from dampode import data
from dampode._checks import as_seed, require_positive
from dampode._files import require_writable, user_path
from dampode.training import Execution
from dampode.training.processes import local_device

__all__ = ["Args", "OutOfTime", "main", "run"]


@dataclass(frozen=True)
class Args:
    """What to run, and how."""

    target: tyro.conf.Positional[str]
    """table1 to table14, figure1 to figure8, ablation, lambda_ablation, fewer_epochs, depth or next"""
    dataset: tuple[Literal["cifar10", "cifar100"], ...] = ("cifar10", "cifar100")
    """data sets to run on"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """one run per seed; an ensemble is over all of them"""
    scale: Literal["full", "small", "fit"] = "full"
    """full: the paper's size; small: a quarter of the width, fewer images and epochs; fit: an easier problem"""
    protocol: Literal["text", "code"] = "text"
    """the paper's text or the authors' code, where they differ"""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """stop after this time; default: when all is done"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    download: bool = False
    """let torchvision download CIFAR"""
    out: Path = Path("runs/paper")
    """folder of checkpoints"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """precision of training; measurements are in fp32"""
    compile: Literal["off", "blocks", "default", "reduce-overhead", "max-autotune"] = "off"
    """what torch.compile compiles in training, or its mode"""
    step_graph: bool = False
    """record training steps as CUDA graphs"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


LONGEST = 525_600
"""The longest time limit in minutes; the system's timer overflows for much longer times."""


class OutOfTime(KeyboardInterrupt):
    """The time is up: it stops a run as Ctrl-C does."""


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Raise OutOfTime inside the block after this time; None for no limit."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if minutes is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(jobs: list[Job], args: Args, results: Path = RESULTS) -> None:
    """Complete the jobs in order; a job that another process has reserved is skipped.

    Raises:
        ValueError: the time ended before anything was saved; no file has changed.
    """
    results_file.read_all(results)
    images: dict[str, data.ImageData] = {}
    job, saved_before, finished = jobs[0], saved_at(jobs[0], args.out), 0
    try:
        with time_limit(args.minutes):
            for job in jobs:
                saved_before = saved_at(job, args.out)
                finished += run_one(job, args, results, images)
    except OutOfTime:
        if not finished and saved_at(job, args.out) == saved_before:
            raise ValueError(
                f"--minutes {args.minutes:g} is too short for one epoch of {job.stem}; no file has changed"
            ) from None
        print(f"{args.minutes:g} minutes are over in {job.stem}; the next run resumes from what is under {args.out}")


def run_one(job: Job, args: Args, results: Path, images: dict[str, data.ImageData]) -> bool:
    """Complete one job unless it is complete, a member is missing, or another process has it; whether it ran.

    A result without a sound measurement is not complete where the weights were kept.
    """
    path = results / f"{job.stem}.json"
    weights = [checkpoint(member, args.out) for member in job.members]
    if path.exists():
        results_file.read_for(path, job)
        measured = job.scale.sound is not None or results_file.sound_path(results, job).exists()
        if measured or not all(file.exists() for file in weights):
            return False
    missing = [m.stem for m in job.members if m != job and not (results / f"{m.stem}.json").exists()]
    if missing:
        print(f"{job.stem}: its members {', '.join(missing)} are not complete yet")
        return False
    with reserved(job, args.out) as free:
        if not free:
            print(f"{job.stem}: another process is running it")
            return False
        if job.dataset not in images:
            images[job.dataset] = load(job, args)
        command = shlex.join(["python", "-m", "benchmarks.paper", *sys.argv[1:]])
        execution = Execution(args.precision, args.compile, step_graph=args.step_graph)
        print(summary(job, complete(job, images[job.dataset], args.out, results, command, execution)))
        complete_sound(job, images[job.dataset], args.out, results, command, execution)
    return True


def load(job: Job, args: Args) -> data.ImageData:
    """The data set, reduced to the scale, on the device."""
    whole = data.load(job.dataset, root=args.root, download=args.download)
    if job.scale.task is not None:
        whole = simplified(whole, job.scale.task)
    return whole.subset(job.scale.train_images, job.scale.test_images).to(local_device(args.device))


def saved_at(job: Job, out: Path) -> list[int]:
    """The times at which the job's unfinished files were written."""
    files = (checkpoint(job, out), *partial_files(job, out).values())
    return [path.stat().st_mtime_ns for path in files if path.exists()]


def summary(job: Job, result: Result) -> str:
    """A result in one line."""
    if result["failed"]:
        return f"{job.stem}: failed to train"
    shown = {key: value for key, value in result["accuracy"].items() if not isinstance(value, list)}
    return f"{job.stem}: " + ", ".join(f"{key} {100 * value:.2f}" for key, value in shown.items())


def check(args: Args) -> None:
    """Refuse flags that no job could use.

    Raises:
        ValueError: a time, the seeds, the data sets or the device cannot be used.
        OSError: the folder of checkpoints cannot be written.
    """
    if args.minutes is not None:
        require_positive(args.minutes, "--minutes")
        if args.minutes > LONGEST:
            raise ValueError(f"--minutes must be at most {LONGEST}, a year, got {args.minutes:g}; leave it out")
    for flag, values in (("dataset", args.dataset), ("seeds", args.seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"--{flag} needs at least one value and none twice, got {list(values)}")
    for seed in args.seeds:
        as_seed(seed)
    local_device(args.device)
    require_writable(args.out)


def main(args: Args) -> None:
    args = replace(args, root=user_path(args.root), out=user_path(args.out))
    check(args)
    jobs = jobs_of(args.target, args.dataset, args.seeds, PROTOCOLS[args.protocol], SCALES[args.scale])
    try:
        run(jobs, args)
    except KeyboardInterrupt:
        raise SystemExit(f"\ninterrupted; the next run resumes from what is under {args.out}") from None
    missing = sum(not (RESULTS / f"{job.stem}.json").exists() for job in jobs)
    print(f"{args.target}: {len(jobs) - missing} of {len(jobs)} results are complete")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ValueError, TypeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
