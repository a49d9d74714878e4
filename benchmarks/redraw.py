"""Draw the benchmarks' figures anew from their results, measuring nothing.

python benchmarks/redraw.py
"""

import json

import gradients
import implicit
import step_overhead

from benchmarks import work_precision
from benchmarks.common.record import RESULTS

if __name__ == "__main__":
    for benchmark in (work_precision, implicit, step_overhead, gradients):
        path = RESULTS / f"{benchmark.__name__}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        benchmark.figure(found["errors" if benchmark is gradients else "results"])
        print(path.with_suffix(".png"))
