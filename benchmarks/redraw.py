"""Draw the figures of the benchmarks from their results, without measuring.

python -m benchmarks.redraw
"""

from benchmarks import batching, gradients, implicit, standard_figures, step_overhead, work_precision
from benchmarks.pages.results import read

__all__ = ["main"]


def main() -> None:
    batching.figure(read("batching")["results"])
    gradients.figure(read("gradients")["errors"])
    implicit.figure(read("implicit")["results"])
    step_overhead.figure(read("step_overhead")["results"])
    work_precision.figure(read("work_precision")["results"])
    standard_figures.figures(read("standard_problems")["results"])


if __name__ == "__main__":
    main()
