"""Run rows of the paper: train what is missing, measure what is missing, and write one result for each.

    python -m benchmarks.paper table1 --dataset cifar10 --seeds 0 1 2 3 4 --scale full --root data
    python -m benchmarks.paper next --minutes 9 --root data      the next missing rows, within nine minutes
    python -m benchmarks.paper next --precision bf16 --compile blocks --step-graph   quick on CUDA
    python -m benchmarks.paper arms --scale small --seeds 0 1 2

The target is table1 to table14, figure1 to figure8, next, or an experiment that the paper lacks: arms, lambda_arms
(what the robustness comes from), short (what a plain network resists that is only as accurate as a damped one). A run
may be stopped at any moment and called again: results under benchmarks/results/paper/ are never computed twice or
overwritten, checkpoints lie under --out. Several processes may share both folders. Afterwards report.py renders
docs/paper.md.
"""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks.paper import results_file as store
from benchmarks.paper.jobs import Job, jobs_of
from benchmarks.paper.run import checkpoint, claimed, complete, partial
from benchmarks.paper.settings import PROTOCOLS, SCALES
from dampode import data
from dampode._checks import require_positive
from dampode._files import require_writable
from dampode.training import Execution
from dampode.training.processes import local_device


@dataclass(frozen=True)
class Args:
    """Run rows of the paper."""

    target: tyro.conf.Positional[str]
    """table1 to table14, figure1 to figure8, arms, lambda_arms, short or next"""
    dataset: tuple[Literal["cifar10", "cifar100"], ...] = ("cifar10", "cifar100")
    """data sets to run on"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """one run for each; an ensemble is over all of them"""
    scale: Literal["full", "small"] = "full"
    """the paper's size, or depth 110 at a quarter of the width with fewer images and epochs"""
    protocol: Literal["text", "code"] = "text"
    """the paper's text or the authors' code, where they part"""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="MINUTES")] = None
    """stop after so many; none: when all is done"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    download: bool = False
    """let torchvision download CIFAR"""
    out: Path = Path("runs/paper")
    """folder of checkpoints"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """what training computes in; measurements are in fp32"""
    compile: Literal["off", "blocks", "default", "reduce-overhead", "max-autotune"] = "off"
    """what torch.compile compiles in training, or its mode"""
    step_graph: bool = False
    """record training steps as CUDA graphs"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


class OutOfTime(KeyboardInterrupt):
    """The time is up: stops a run as Ctrl-C does."""


@contextmanager
def budget(minutes: float | None) -> Iterator[None]:
    """Raise OutOfTime inside when so many minutes have passed; None for no end."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    if minutes is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(jobs: list[Job], args: Args, results: Path = store.RESULTS) -> None:
    """Complete the jobs in order; those that another process works on are passed over.

    Raises:
        ValueError: the budget ended before anything was saved; what is on disk is as before.
    """
    store.read_all(results)
    command = shlex.join(["python", "-m", "benchmarks.paper", *sys.argv[1:]])
    execution = Execution(args.precision, args.compile, step_graph=args.step_graph)
    images: dict[str, data.ImageData] = {}
    job, before, finished = jobs[0], saved(jobs[0], args.out), 0
    try:
        with budget(args.minutes):
            for job in jobs:
                if (results / f"{job.stem}.json").exists():
                    store.read_for(results / f"{job.stem}.json", job)
                    continue
                missing = [m for m in job.members if m != job and not (results / f"{m.stem}.json").exists()]
                if missing:
                    print(f"{job.stem}: its members {', '.join(m.stem for m in missing)} are not there yet")
                    continue
                before = saved(job, args.out)
                with claimed(job, args.out) as ours:
                    if not ours:
                        print(f"{job.stem}: another process is at it")
                        continue
                    if job.dataset not in images:
                        images[job.dataset] = load(job, args)
                    print(summary(job, complete(job, images[job.dataset], args.out, results, command, execution)))
                    finished += 1
    except OutOfTime:
        if not finished and saved(job, args.out) == before:
            raise ValueError(
                f"--minutes {args.minutes:g} is too short for one epoch of {job.stem}; nothing was changed on disk"
            ) from None
        print(f"{args.minutes:g} minutes are over in {job.stem}; what is saved under {args.out} is gone on from")


def load(job: Job, args: Args) -> data.ImageData:
    """The data set, cut to the scale, on the device."""
    whole = data.load(job.dataset, root=args.root, download=args.download)
    return whole.subset(job.scale.train_images, job.scale.test_images).to(local_device(args.device))


def saved(job: Job, out: Path) -> list[int]:
    """When what is saved of a job was written."""
    return [path.stat().st_mtime_ns for path in (checkpoint(job, out), partial(job, out)) if path.exists()]


def summary(job: Job, result: dict[str, Any]) -> str:
    """A line about a result."""
    if result["failed"]:
        return f"{job.stem}: failed to train"
    shown = {key: value for key, value in result["accuracy"].items() if not isinstance(value, list)}
    return f"{job.stem}: " + ", ".join(f"{key} {100 * value:.2f}" for key, value in shown.items())


def main(args: Args) -> None:
    if args.minutes is not None:
        require_positive(args.minutes, "--minutes")
    require_writable(args.out)
    jobs = jobs_of(args.target, args.dataset, args.seeds, PROTOCOLS[args.protocol], SCALES[args.scale])
    try:
        run(jobs, args)
    except KeyboardInterrupt:
        raise SystemExit(f"\ninterrupted; what is saved under {args.out} is gone on from") from None
    missing = sum(not (store.RESULTS / f"{job.stem}.json").exists() for job in jobs)
    print(f"{args.target}: {len(jobs) - missing} of {len(jobs)} results are there")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ValueError, TypeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
