"""The finished parts of a long measurement, in a file that is always whole, so that the measurement can resume."""

import json
from pathlib import Path

from dampode._files import write_atomically
from dampode._identity import checksum

__all__ = ["ProgressFile"]

Values = dict[str, str | float]


class ProgressFile:
    """Finished parts of a measurement, key -> values. Each new part is written to the file at once.

    Args:
        path: the file; None to keep the parts in memory only.
        identity: identifies the measurement. A file of another measurement is refused.

    Raises:
        ValueError: the file belongs to another measurement, or is damaged.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.finished: dict[str, Values] = {}
        if path is not None and path.exists():
            self.finished = _read(path, identity)

    def add(self, key: str, values: Values) -> None:
        """Add a finished part, and write the file."""
        self.finished[key] = values
        if self.path is not None:
            content = {"identity": self.identity, "finished": self.finished, "checksum": checksum(self.finished)}
            write_atomically(self.path, lambda file: file.write(json.dumps(content).encode()))


def _read(path: Path, identity: str) -> dict[str, Values]:
    """The finished parts in a file."""
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
