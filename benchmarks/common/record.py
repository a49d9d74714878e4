"""What every benchmark shares: a clock, and benchmarks/results/NAME.json with where and how its numbers came about."""

import json
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"


def command() -> str:
    """The command line of the benchmark that runs, as given at the repository's root."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def provenance(command: str, seed: int) -> dict[str, Any]:
    """The machine, versions, commit, command and seed of a run, fit for JSON."""
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
        "command": command,
        "seed": seed,
    }


def clock(device: str | torch.device) -> float:
    """Seconds, when the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def write(name: str, payload: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _processor() -> str:
    """The processor's model as Linux tells it, else as Python does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
