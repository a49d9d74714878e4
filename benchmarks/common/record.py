"""The result file of a benchmark, benchmarks/results/NAME.json: where, when and how it was measured; and a clock."""

import json
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dampode._files import write_atomically

__all__ = ["RESULTS", "clock", "command", "provenance", "write"]

RESULTS = Path(__file__).parents[1] / "results"


def command() -> str:
    """The command line of the running benchmark, as given in the root of the repository.

    Of an absolute path it has the last name alone: other machines have other folders.
    """
    arguments = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])


def provenance(command: str, seed: int) -> dict[str, Any]:
    """The machine, versions, commit, date, command and seed of a run, fit for JSON."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {
        "machine": {
            "processor": _processor(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "system": platform.platform(),
        },
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("dampode", "torch", "torchvision", "torchdiffeq")},
        },
        "commit": git.stdout.strip() or "unknown",
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "seed": seed,
    }


def clock(device: str | torch.device) -> float:
    """The time in seconds, once the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write(name: str, payload: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    path = RESULTS / f"{name}.json"
    text = json.dumps(payload, indent=2, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
    return path


def _processor() -> str:
    """The processor's model from /proc/cpuinfo, or what Python knows of it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
