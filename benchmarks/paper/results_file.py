"""Results on disk: one checked JSON file a job. Written once, whole or not at all, and never over another."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.paper.jobs import Job

VERSION = 1
KEYS = {"version", "config", "checksum"}
RESULTS = Path(__file__).parents[1] / "results" / "paper"


def write(path: Path, config: dict[str, Any], content: dict[str, Any], replace: bool = False) -> None:
    """Write a result atomically, with its version and a checksum over all of it.

    Args:
        path: the file, NAME.json.
        config: what was run.
        content: what came out; its keys are neither of ``config`` nor reserved.
        replace: whether a file in the way is replaced, as for one that grows; else it is refused.

    Raises:
        FileExistsError: there is a file already, and it is left as it is.
    """
    result = {"version": VERSION, "config": config, **content}
    text = json.dumps({**result, "checksum": _checksum(result)}, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        if replace:
            partial.replace(path)
        else:
            path.hardlink_to(partial)  # fails where there is a file, as a rename would not
    except FileExistsError:
        raise FileExistsError(f"{path} is there already and is not overwritten; move it away to measure anew") from None
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Read a result and check that it is whole and unchanged.

    Raises:
        ValueError: the file is truncated, edited, of another version, or holds something else.
    """
    remedy = "restore it from version control, or remove it to measure anew"
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be whole JSON; it is truncated or damaged ({error}): {remedy}") from None
    if not isinstance(result, dict) or not set(result) >= KEYS:
        raise ValueError(f"{path} must be a result with {sorted(KEYS)}: {remedy}")
    if result["version"] != VERSION:
        raise ValueError(f"{path} must be of version {VERSION}, got version {result['version']!r}: {remedy}")
    checksum = result.pop("checksum")
    if checksum != _checksum(result):
        raise ValueError(f"{path} was edited after it was written: its checksum does not fit; {remedy}")
    return result


def read_for(path: Path, job: Job) -> dict[str, Any]:
    """Read the result of a job, and check that it is that job's.

    Raises:
        ValueError: as `read`, or the result was made under other settings, which are named.
    """
    result = read(path)
    found, asked = _flat(result["config"]), _flat(job.config)
    for key in sorted(found.keys() | asked.keys()):
        if found.get(key) != asked.get(key):
            raise ValueError(
                f"{path} must be made under the settings asked for: {key} was {found.get(key)!r}, now it is "
                f"{asked.get(key)!r}; results are never mixed: move it away, or restore the setting"
            )
    return result


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every result of a folder, by name.

    Raises:
        ValueError: as `read`, or two results are of one job, or one carries another's name.
    """
    results, names = [], {}
    for path in sorted(folder.glob("*.json")):
        result = read(path)
        cell = identity(result["config"])
        if cell in names:
            raise ValueError(f"{names[cell]} and {path} are two results of one cell; keep the one you trust")
        names[cell] = path
        results.append(result)
    return results


def identity(config: dict[str, Any]) -> tuple[Any, ...]:
    """The cell that a result fills: row, data set, seeds, protocol and scale."""
    seeds = tuple(config["seeds"])
    return config["row"], config["dataset"], seeds, config["protocol"]["name"], config["scale"]["name"]


def _checksum(result: dict[str, Any]) -> str:
    canonical = json.dumps(result, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
