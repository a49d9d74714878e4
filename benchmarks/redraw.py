"""Draw the figures of the benchmarks from their results, without measuring.

python -m benchmarks.redraw
"""

import json
from typing import Any

from benchmarks import gradients, implicit, step_overhead, work_precision
from benchmarks.common.record import RESULTS

__all__ = ["main"]


def main() -> None:
    gradients.figure(results("gradients")["errors"])
    implicit.figure(results("implicit")["results"])
    step_overhead.figure(results("step_overhead")["results"])
    work_precision.figure(results("work_precision")["results"])


def results(name: str) -> Any:
    """The content of a result file."""
    path = RESULTS / f"{name}.json"
    print(path.with_suffix(".png"))
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
