"""Draw the figures of the benchmarks from their results, without measuring.

python -m benchmarks.redraw
"""

from benchmarks import batching, gradients, implicit, standard_figures, step_overhead, work_precision
from benchmarks.common.record import RESULTS
from benchmarks.pages.results import read
from dampode.cli import robustness
from dampode.robustness import Report

__all__ = ["main"]


def main() -> None:
    batching.figure(read("batching")["results"])
    gradients.figure(read("gradients")["errors"])
    implicit.figure(read("implicit")["results"])
    step_overhead.figure(read("step_overhead")["results"])
    work_precision.figure(read("work_precision")["results"])
    standard_figures.figures(read("standard_problems")["results"])
    for path in (RESULTS / "cifar10_report").glob("*/report.json"):
        robustness.draw(Report.from_json(path.read_text(encoding="utf-8")), path.with_name("robustness.png"))


if __name__ == "__main__":
    main()
