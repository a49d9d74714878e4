"""Files that one process at a time may write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def require_writable(folder: Path) -> None:
    """Make the folder and try to write into it, before hours are spent.

    Raises:
        OSError: it cannot be made or written.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"the output folder must be writable: {folder} ({error}); choose another") from None


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold a file for writing as long as the block runs; a process that is killed lets go of it.

    Raises:
        OSError: another run holds it, or its folder cannot be written.
    """
    require_writable(path.parent)
    if path.is_dir():
        raise OSError(f"the file to write must be no folder, got the folder {path}; name a file in it")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"only one run may write {path}; another does so now: wait for it or choose another") from None
    try:
        yield
    finally:
        lock.release()
