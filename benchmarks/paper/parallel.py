"""Complete several rows at once on one device in a limited time; what was made is packed into a few files.

    python -m benchmarks.paper.parallel next --processes 3 --minutes 9 --row-minutes 12 --root data --pack packed
    python -m benchmarks.paper.parallel next --resume packed --processes 3 --minutes 9 --row-minutes 12 --pack packed

A row starts only if it can end in the time left. ``--row-minutes`` is the time that one row takes while the others run
beside it; a row with a checkpoint needs a share of it. ``--all-minutes`` is the time left with all later calls, which
resume from what is under --out. On CUDA the processes share the device through NVIDIA's
multi-process service, if it is installed. ``--pack`` is a folder that receives the new results (results.tar) and the
checkpoints of unfinished rows (unfinished.tar), in pieces of 15 MiB, at most eight in all; ``--resume`` reads both.
The results are packed again after each row, the checkpoints at the end. Ensembles are left to `benchmarks.paper`.
"""

import multiprocessing
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import tyro

from benchmarks.paper import results_file
from benchmarks.paper.__main__ import Args, check, run
from benchmarks.paper.plan.jobs import Job, jobs_of
from benchmarks.paper.plan.protocols import PROTOCOLS, SCALES
from benchmarks.paper.results_file import RESULTS
from benchmarks.paper.run.complete_job import checkpoint, partial_files
from dampode._checks import require_positive, require_positive_int
from dampode._files import require_writable, user_path
from dampode.training import load_checkpoint

__all__ = ["Start", "pack", "run_rows", "share_left", "unpack"]

PIECE = 15 * 2**20
"""Bytes per file of a packed archive."""
PIECES = 7
"""Files for the checkpoints; the eighth is for the results."""
MEASURING = 0.1
"""Share of a row's time that measuring takes, at least."""

Start = Callable[[Job, float], BaseProcess]
"""Begins to complete a job within so many minutes."""


@dataclass(frozen=True)
class Together:
    """How many rows run at once, for how long, and what becomes of them."""

    row_minutes: float
    """time that one row takes while the others run beside it"""
    all_minutes: float | None = None
    """time in which a row must be able to end, later calls included; default: --minutes"""
    processes: int = 2
    """rows at once"""
    pack: Path = Path("packed")
    """folder for the new results and the checkpoints of unfinished rows"""
    resume: Path | None = None
    """folder that an earlier --pack wrote"""


def run_rows(
    jobs: Sequence[Job],
    minutes: float,
    together: Together,
    left: Callable[[Job], float],
    start: Start,
    ended: Callable[[Job], object],
) -> None:
    """Complete jobs in order, as many at once as ``together`` says; none starts that cannot end in time.

    Args:
        jobs: what to complete.
        minutes: the time of this call.
        together: number of processes, and the time of a row.
        left: the share of a job that is still to be done, 0 to 1.
        start: begins a job.
        ended: called when a job's process has ended.
    """
    end = time.monotonic() + 60 * minutes
    later = max(together.all_minutes or 0.0, minutes) - minutes
    waiting, running = list(jobs), dict[Job, BaseProcess]()
    while True:
        for job in [job for job, process in running.items() if not process.is_alive()]:
            running.pop(job).join()
            ended(job)
        for job in waiting[:]:
            minutes_left = (end - time.monotonic()) / 60
            needed = together.row_minutes * left(job)
            if len(running) == together.processes or minutes_left <= 0 or needed > minutes_left + later:
                continue
            waiting.remove(job)
            running[job] = start(job, minutes_left)
        if not running:
            return
        time.sleep(0.2)


def share_left(job: Job, out: Path) -> float:
    """The share of a job that is still to be done: 1 without a checkpoint, and at least the measuring."""
    path = checkpoint(job, out)
    if not path.exists():
        return 1.0
    done = len(load_checkpoint(path)["history"]["loss"]) / job.recipe.epochs
    return MEASURING + (1 - MEASURING) * (1 - done)


def pack(target: Path, name: str, files: Sequence[Path], pieces: int) -> list[Path]:
    """Pack files, the first ones first, into at most ``pieces`` files NAME.1of2, NAME.2of2, ... of `PIECE` bytes.

    Returns:
        The files that did not fit.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(f"{name}.*"):
        old.unlink()
    left_out: list[Path] = []
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for file in files:
                if archive.offset + file.stat().st_size + 2 * tarfile.RECORDSIZE > pieces * PIECE:
                    left_out.append(file)
                else:
                    archive.add(file, file.name)
        count = -(-whole.tell() // PIECE)
        whole.seek(0)
        for index in range(count):
            (target / f"{name}.{index + 1}of{count}").write_bytes(whole.read(PIECE))
    return left_out


def unpack(source: Path, name: str, target: Path) -> None:
    """Unpack what `pack` wrote, without replacing files that exist.

    Raises:
        ValueError: a piece is missing.
    """
    pieces = sorted(source.glob(f"{name}.*"))
    if not pieces:
        return
    count = int(pieces[0].name.rpartition("of")[2])
    if {piece.name for piece in pieces} != {f"{name}.{index + 1}of{count}" for index in range(count)}:
        found = ", ".join(piece.name for piece in pieces)
        raise ValueError(f"{source} must hold every piece of {name} and no other, got {found}; copy all {count} pieces")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as whole:
        for index in range(count):
            whole.write((source / f"{name}.{index + 1}of{count}").read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            missing = [member for member in archive if not (target / member.name).exists()]
            archive.extractall(target, missing, filter="data")


@contextmanager
def shared_device(device: str) -> Iterator[None]:
    """NVIDIA's multi-process service for the processes of this block, where the device and the service exist."""
    control = shutil.which("nvidia-cuda-mps-control")
    if torch.device(device).type != "cuda" or control is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        subprocess.run([control, "-d"], check=True)
        try:
            yield
        finally:
            subprocess.run([control], input=b"quit\n", check=True)


def _complete(job: Job, args: Args) -> None:
    """The work of one process."""
    try:
        run([job], args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{job.stem}: {error}") from None


def _start(args: Args) -> Start:
    """Begins each job in a process of its own."""
    context = multiprocessing.get_context("spawn")

    def start(job: Job, minutes: float) -> BaseProcess:
        print(f"{job.stem}: started, {minutes:.1f} minutes are left", flush=True)
        process = context.Process(target=_complete, args=(job, replace(args, minutes=minutes)))
        process.start()
        return process

    return start


def main(
    args: tyro.conf.OmitArgPrefixes[Args], together: tyro.conf.OmitArgPrefixes[Together], results: Path = RESULTS
) -> None:
    args = replace(args, root=user_path(args.root), out=user_path(args.out))
    check(args)
    require_positive_int(together.processes, "--processes")
    require_positive(together.row_minutes, "--row-minutes")
    if together.all_minutes is not None:
        require_positive(together.all_minutes, "--all-minutes")
    if args.minutes is None:
        raise ValueError("--minutes must be given: the time after which the unfinished rows are packed")
    require_writable(together.pack)
    if together.resume is not None:
        unpack(together.resume, "results.tar", results)
        unpack(together.resume, "unfinished.tar", args.out)
    before = {path.name for path in results.glob("*.json")}
    jobs = [
        job
        for job in jobs_of(args.target, args.dataset, args.seeds, PROTOCOLS[args.protocol], SCALES[args.scale])
        if len(job.seeds) == 1 and f"{job.stem}.json" not in before
    ]

    def pack_results(job: Job) -> None:
        new = [path for path in sorted(results.glob("*.json")) if path.name not in before]
        pack(together.pack, "results.tar", new, 1)
        print(f"{job.stem}: {'complete' if (results / f'{job.stem}.json').exists() else 'not complete'}", flush=True)

    with shared_device(args.device):
        run_rows(jobs, args.minutes, together, lambda job: share_left(job, args.out), _start(args), pack_results)
    results_file.read_all(results)
    unfinished = [job for job in jobs if not (results / f"{job.stem}.json").exists()]
    nearest_first = sorted(unfinished, key=lambda job: share_left(job, args.out))
    files = [file for job in nearest_first for file in _files_of(job, args.out)]
    for file in pack(together.pack, "unfinished.tar", files, PIECES):
        print(f"{file.name} did not fit into {together.pack}; it stays in {args.out}")


def _files_of(job: Job, out: Path) -> list[Path]:
    """The checkpoint and the unfinished reports of a job."""
    return [path for path in (checkpoint(job, out), *partial_files(job, out).values()) if path.exists()]


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (ValueError, TypeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
