"""Files that are always whole, and that one process at a time may write."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to a file beside ``path``, flush it to disk, then rename it over the old one.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path} could not be written ({error}); the one before it is untouched") from None
    finally:
        with suppress(OSError):
            beside.unlink()


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
def only_writer(path: str | Path) -> Iterator[None]:
    """Hold a file for writing as long as the block runs; a process that is killed lets go of it.

    Raises:
        OSError: another run holds it, or its folder cannot be written.
    """
    path = Path(path)
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
