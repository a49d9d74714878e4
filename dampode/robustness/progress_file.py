"""The finished parts of a long measurement, in a file that is always whole, so that the measurement can resume."""

import json
from collections.abc import Mapping
from pathlib import Path

from dampode._files import write_atomically
from dampode._identity import checksum
from dampode.robustness.processes import ALONE, Processes

__all__ = ["ProgressFile"]

Values = dict[str, str | float]


class ProgressFile:
    """Finished parts of a measurement, key -> values. New parts are written to the file at once.

    Args:
        path: the file; None to keep the parts in memory only.
        identity: identifies the measurement. A file of another measurement is refused.
        processes: the processes that measure together. The main process reads and writes the file for all.

    Raises:
        ValueError: the file belongs to another measurement, or is damaged, or the processes measure different things.
    """

    def __init__(self, path: Path | None, identity: str, processes: Processes = ALONE) -> None:
        self.path = path
        self.identity = identity
        self.processes = processes
        if len(set(processes.gather(lambda: identity))) > 1:
            raise ValueError("all processes must measure the same model on the same images with the same settings")
        self.finished: dict[str, Values] = processes.from_main(lambda: _read(path, identity))

    def add(self, parts: Mapping[str, Values]) -> None:
        """Add finished parts, and write the file."""
        self.finished |= parts
        self.processes.from_main(self._write)

    def _write(self) -> None:
        if self.path is not None:
            content = {"identity": self.identity, "finished": self.finished, "checksum": checksum(self.finished)}
            write_atomically(self.path, lambda file: file.write(json.dumps(content).encode()))


def _read(path: Path | None, identity: str) -> dict[str, Values]:
    """The finished parts in a file; none if there is no file."""
    if path is None or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, finished = content["identity"], dict(content["finished"])
        if content["checksum"] != checksum(finished):
            raise ValueError("its checksum does not fit")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} must be a partial measurement; it is damaged or of another kind ({error})") from None
    if found != identity:
        raise ValueError(
            f"{path} is a partial measurement of another model, data or settings ({found[:12]} there, "
            f"{identity[:12]} here); delete it, or name another file"
        )
    return finished
