"""Files are written whole, by one process at a time, and killed runs leave nothing behind."""

import os
import subprocess
import sys

import pytest

from dampode._files import only_writer, write_atomically


def dead_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, lambda file: file.write(b"first"))
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["file.txt"]


def test_without_replace_an_existing_file_is_refused(tmp_path):
    path = tmp_path / "file.txt"
    write_atomically(path, lambda file: file.write(b"first"), replace=False)
    with pytest.raises(FileExistsError, match=r"file\.txt already exists and is not overwritten"):
        write_atomically(path, lambda file: file.write(b"second"), replace=False)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file.txt"]


def test_a_failed_write_keeps_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"first")

    def fail(file):
        file.write(b"sec")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"could not be written .*No space left.* untouched"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["file.txt"]


def test_parts_of_killed_processes_go_at_the_next_write(tmp_path):
    gone = tmp_path / f".file.txt.{dead_process()}.part"
    kept = [tmp_path / name for name in (f".file.txt.{os.getppid()}.part", ".file.txt.notes.part", ".other.txt.1.part")]
    for part in (gone, *kept):
        part.touch()
    write_atomically(tmp_path / "file.txt", lambda file: file.write(b"whole"))
    assert not gone.exists()
    assert all(part.exists() for part in kept)


def test_one_process_may_write(tmp_path):
    path = tmp_path / "file.txt"
    with only_writer(path), pytest.raises(OSError, match="only one run may write"), only_writer(path):
        pass
    with only_writer(path):
        pass
    with pytest.raises(OSError, match="got the folder"), only_writer(tmp_path):
        pass
