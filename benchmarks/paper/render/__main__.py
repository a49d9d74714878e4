"""Render docs/paper.md, and the figures that can be drawn, from the results under benchmarks/results/paper/.

python -m benchmarks.paper.render
"""

from pathlib import Path

from benchmarks.paper.plan.protocols import PROTOCOLS
from benchmarks.paper.plan.rows import FEWER_EPOCHS
from benchmarks.paper.plan.targets import FIGURES
from benchmarks.paper.render import figures
from benchmarks.paper.render.depth_study import fit_runs
from benchmarks.paper.render.fit_section import FIT_IMAGE
from benchmarks.paper.render.page import SMALL_ROWS, figure_image, page, shares_image, small_runs
from benchmarks.paper.results_file import RESULTS, read_current, read_sound

DOCS = Path(__file__).parents[3] / "docs"


def main() -> None:
    results = read_current(RESULTS)
    for number in FIGURES:
        for protocol in PROTOCOLS:
            if figures.drawable(number, results, protocol):
                figures.draw(number, results, protocol, DOCS / figure_image(number, protocol))
    for protocol, runs in small_runs(results).items():
        rows = [row for row in SMALL_ROWS if row not in FEWER_EPOCHS]
        figures.draw_shares(rows, runs, DOCS / shares_image(protocol))
    if runs_of := fit_runs(results):
        figures.draw_depth(runs_of, DOCS / FIT_IMAGE)
    (DOCS / "paper.md").write_text(page(results, read_sound(RESULTS, results)), encoding="utf-8")
    print(f"{len(results)} results: {DOCS / 'paper.md'}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
