"""Write the rendered pages to docs/."""

from pathlib import Path

from benchmarks.pages import performance, standard_problems

PAGES = {"performance.md": performance.page, "standard_problems.md": standard_problems.page}
DOCS = Path(__file__).parents[2] / "docs"

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        print(DOCS / name)
