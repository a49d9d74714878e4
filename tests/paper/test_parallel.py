"""Several rows at once: which rows start, what is packed, and that a row resumes from a packed checkpoint."""

import os
import threading
import time

import pytest

from benchmarks.paper import parallel
from benchmarks.paper.parallel import Together, pack, run_rows, share_left, unpack
from benchmarks.paper.run import complete_job
from tests.paper.toy import numbers, toy_job


class Running(threading.Thread):
    """A thread in the place of a process."""

    def __init__(self, seconds):
        super().__init__(target=time.sleep, args=(seconds,))
        self.start()


def test_no_row_starts_that_cannot_end_and_no_more_run_than_are_asked_for():
    jobs = [toy_job((seed,)) for seed in range(5)]
    share = dict(zip(jobs, (0.5, 1.0, 0.1, 0.2, 0.3), strict=True))
    started, at_once, ended = [], [0], []

    def start(job, minutes):
        started.append(job.seeds[0])
        at_once.append(len(started) - len(ended))
        return Running(0.05)

    run_rows(jobs, 6.0, Together(10.0), share.__getitem__, start, ended.append)
    assert started == [0, 2, 3, 4]  # job 1 needs 10 minutes
    assert max(at_once) == 2
    assert sorted(job.seeds[0] for job in ended) == started
    started.clear()
    run_rows(jobs[:2], 6.0, Together(10.0, all_minutes=12.0), share.__getitem__, start, ended.append)
    assert started == [0, 1]  # job 1 ends in a later call


def test_files_packed_in_pieces_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "PIECE", 6000)
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    files = [source / name for name in "abc"]
    for file, size in zip(files, (11500, 30000, 300), strict=True):
        file.write_bytes(os.urandom(size))
    assert pack(tmp_path / "packed", "files", files, 6) == [files[1]]
    assert max(piece.stat().st_size for piece in (tmp_path / "packed").iterdir()) <= 6000
    target.mkdir()
    (target / "c").write_bytes(b"newer")
    unpack(tmp_path / "packed", "files", target)
    assert (target / "a").read_bytes() == files[0].read_bytes()
    assert (target / "c").read_bytes() == b"newer"
    (tmp_path / "packed" / "files.2of4").unlink()
    with pytest.raises(ValueError, match=r"must hold every piece of files and no other, got files\.1of4, files\.3of4"):
        unpack(tmp_path / "packed", "files", tmp_path / "other")


def test_a_row_resumes_from_its_packed_checkpoint(finished, images, tmp_path, monkeypatch):
    monkeypatch.setattr(complete_job, "CHANCE", -1.0)
    job, first, second = toy_job(), tmp_path / "first", tmp_path / "second"
    assert share_left(job, first) == 1.0
    out, _, whole = finished
    assert share_left(job, out) == pytest.approx(parallel.MEASURING)
    pack(tmp_path / "packed", "unfinished", [complete_job.checkpoint(job, out)], 1)
    unpack(tmp_path / "packed", "unfinished", second)
    monkeypatch.setattr("dampode.training.run.Run.steps", None)  # nothing is trained again
    result = complete_job.complete(job, images, second, tmp_path / "results", "command")
    assert numbers(result) == numbers(whole)
