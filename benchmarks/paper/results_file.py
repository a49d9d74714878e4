"""The result of one job as a JSON file with a checksum. It is written once and never overwritten."""

import json
from pathlib import Path
from typing import Any

from benchmarks.paper.plan.jobs import Job, job_named
from dampode._files import write_atomically
from dampode._identity import checksum, require_same

__all__ = [
    "RESULTS",
    "VERSION",
    "Result",
    "read",
    "read_all",
    "read_current",
    "read_for",
    "read_sound",
    "sound_path",
    "write",
]

VERSION = 2
KEYS = {"version", "config", "checksum"}
RESULTS = Path(__file__).parents[1] / "results" / "paper"

Result = dict[str, Any]
"""A result without its checksum. Its keys:

- version, config: of the file, and the job's settings (`Job.config`)
- provenance: machine, versions, commit, command, seed
- failed: whether the network did not train
- accuracy: column -> accuracy in [0, 1], for a noise at severities 1 to 5; empty for a network that diverged
- reports: {"noise": ..., "attacks": ...}, each as `Report.to_json` writes it; None where only accuracies were kept
- depth: the effective depth and what it follows from (`measure.depth_in_effect`); None for a network that cannot be
  folded, and missing where the weights were not kept
- coefficients: the λ_n after training; empty for a gated network and an ensemble
- landscapes: what Figure 2 shows of the network; empty for all others
- execution: precision, compilation and layout of training
- training: loss, accuracy and seconds per epoch; None for an ensemble
- members: the seeds of an ensemble's networks that trained; empty for one network
"""


def write(path: Path, config: dict[str, Any], content: dict[str, Any]) -> None:
    """Write a result atomically, with the file's version and a checksum of everything in it.

    Args:
        path: the file, NAME.json.
        config: `Job.config`.
        content: the other keys of `Result`.

    Raises:
        FileExistsError: the file exists; it is left unchanged.
    """
    result = {"version": VERSION, "config": config, **content}
    text = json.dumps({**result, "checksum": checksum(result)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()), replace=False)


def read(path: Path) -> Result:
    """Read a result and check that it is whole and unchanged.

    Raises:
        ValueError: the file is truncated, edited, of another version, or not a result.
    """
    remedy = "restore it from version control, or remove it to measure again"
    try:
        result: Any = json.loads(path.read_text(encoding="utf-8"))
        found = checksum({key: result[key] for key in result if key != "checksum"}) if isinstance(result, dict) else ""
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} must be whole JSON; it is truncated or damaged ({error}): {remedy}") from None
    if not isinstance(result, dict) or not set(result) >= KEYS or not isinstance(result["config"], dict):
        raise ValueError(f"{path} must be a result with {sorted(KEYS)}: {remedy}")
    if result["version"] != VERSION:
        raise ValueError(f"{path} must be of version {VERSION}, got version {result['version']!r}: {remedy}")
    if result.pop("checksum") != found:
        raise ValueError(f"{path} was edited after it was written: its checksum does not fit; {remedy}")
    return result


def read_for(path: Path, job: Job) -> Result:
    """Read the result of a job, and check that it was made under the job's settings.

    Raises:
        ValueError: as `read`, or the settings differ; the error names each difference.
    """
    result = read(path)
    require_same(
        path, result["config"], job.config, "results are never mixed: move the file away, or restore the setting"
    )
    return result


def read_all(folder: Path) -> list[Result]:
    """Every result in a folder, sorted by file name.

    Raises:
        ValueError: as `read`, or two results are of one job.
    """
    results: list[Result] = []
    paths: dict[tuple[Any, ...], Path] = {}
    for path in sorted(folder.glob("*.json")):
        result = read(path)
        try:
            earlier = paths.setdefault(_identity(result["config"]), path)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} must hold the settings of a job, got others ({error}); move the file away"
            ) from None
        if earlier != path:
            raise ValueError(f"{earlier} and {path} are two results of one job; keep the one you trust")
        results.append(result)
    return results


def read_current(folder: Path) -> list[Result]:
    """Every result in a folder, each checked against the settings that its job has now.

    Raises:
        ValueError: as `read_all`, or a result was made under other settings.
    """
    jobs = [job_named(result["config"]) for result in read_all(folder)]
    return [read_for(folder / f"{job.stem}.json", job) for job in jobs]


def sound_path(folder: Path, job: Job) -> Path:
    """The file of a job's measurement under a sound protocol. Its key "report" is what `Report.to_json` writes."""
    return folder / "sound" / f"{job.stem}.json"


def read_sound(folder: Path, results: list[Result]) -> list[tuple[Result, Result]]:
    """The results that were also measured under a sound protocol, each with that measurement.

    Raises:
        ValueError: as `read_for`.
    """
    jobs = [(result, job_named(result["config"])) for result in results]
    paths = [(result, job, sound_path(folder, job)) for result, job in jobs]
    return [(result, read_for(path, job)) for result, job, path in paths if path.exists()]


def _identity(config: dict[str, Any]) -> tuple[Any, ...]:
    """Row, data set, seeds, protocol and scale: what names a job."""
    return config["row"], config["dataset"], *config["seeds"], config["protocol"]["name"], config["scale"]["name"]
