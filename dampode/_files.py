"""Files that are always whole, and that one process at a time may write."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

__all__ = ["is_there", "only_writer", "require_writable", "user_path", "write_atomically"]


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, in which "~" means the home folder.

    Raises:
        OSError: "~" names a user without a home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise OSError(f"the home folder in {path} must exist ({error}); write the path out") from None


def is_there(path: Path) -> bool:
    """Whether something has this path: a file, a folder, or a link, even if the link leads nowhere or in a circle."""
    return os.path.lexists(path)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], replace: bool = True) -> None:
    """Write a file that appears whole or not at all.

    The bytes go to a temporary file in the same folder, which is flushed to disk and then renamed. Temporary files of
    processes that were killed are removed first.

    Args:
        path: the file; its folder is made if it is missing.
        write: writes the content to the open file that it is given.
        replace: whether an existing file is replaced; else it is left alone and refused.

    Raises:
        FileExistsError: the file exists and ``replace`` is False.
        OSError: the folder cannot be written or the disk is full; an existing file is then untouched.
    """
    path = user_path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_parts_of_dead_processes(path)
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(part, path)
        else:
            os.link(part, path)  # unlike a rename, a hard link fails if the name is taken
    except FileExistsError:
        raise FileExistsError(f"{path} already exists and is not overwritten; move it away") from None
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path} could not be written ({error}); an existing file is untouched") from None
    finally:
        with suppress(OSError):
            part.unlink()


def require_writable(folder: Path) -> None:
    """Make the folder and try to write into it, before hours of computing.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder = user_path(folder)
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"the output folder must be writable: {folder} ({error}); choose another") from None


@contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Reserve a file for this process while the block runs. A process that is killed releases it.

    Raises:
        OSError: another process has reserved the file, or its folder cannot be written.
    """
    path = user_path(path)
    require_writable(path.parent)
    if path.is_dir():
        raise OSError(f"the file to write must not be a folder, got the folder {path}; name a file in it")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"only one run may write {path}; another does so now: wait for it or choose another file"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _remove_parts_of_dead_processes(path: Path) -> None:
    """Remove the temporary files of `write_atomically` whose processes no longer run."""
    prefix, suffix = f".{path.name}.", ".part"
    for name in os.listdir(path.parent):
        pid = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{pid}{suffix}" and pid.isdecimal() and not _is_running(int(pid)):
            with suppress(OSError):
                path.with_name(name).unlink()


def _is_running(pid: int) -> bool:
    """Whether a process has this number. Only POSIX can ask without ending it; elsewhere the answer is yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # a process of another user
    return True
