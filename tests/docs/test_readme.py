"""The table of robustness is the measured one, the pages' code runs, and their sentences are short."""

import re

import pytest

from benchmarks.paper.render.statistics import our_means
from benchmarks.paper.results_file import RESULTS, read_current
from tests.helpers import ROOT


def test_the_table_is_the_measured_one():
    results, columns = read_current(RESULTS), ("acc", "noise", "pgd 1/255", "pgd 2/255")
    mean_of = our_means(results, "text", "small")
    for name in ("resnet-110", "in_resnet-110", "lambda_in_resnet-110", "in_resnet-110-frozen", "in_resnet-110-gains"):
        cells = [mean_of(name, "cifar10", column, False) for column in columns]
        row = " | ".join(f"{cell.mean:.1f} ± {cell.sd:.1f}" for cell in cells)
        assert f" | {row} |" in (ROOT / "docs" / "damping_and_robustness.md").read_text(encoding="utf-8")


def with_code(path):
    return "```python\n" in path.read_text(encoding="utf-8")


PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if with_code(path)]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_code_on_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a page may write files
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 88]
    namespace = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


def sentences(text):
    """The sentences of a page without code, formulas and comments; the cells of a table are sentences too."""
    text = re.sub(r"```.*?```|<!--.*?-->|\$\$.*?\$\$|^ {4}.*?$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.) )", text):
        for part in block.split("|") if block.lstrip().startswith("|") else [block]:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", part)
            yield from re.split(r"(?<=[.!?:;])\s+", plain.replace("\n", " "))


@pytest.mark.parametrize("page", sorted({*PAGES, *(ROOT / "docs").rglob("*.md")}), ids=lambda page: page.stem)
def test_no_sentence_is_long(page):
    text = page.read_text(encoding="utf-8")
    assert not [s for s in sentences(text) if len(re.findall(r"\S*\w\S*", s)) > 34]


def test_a_long_sentence_is_found():
    assert max(len(s.split()) for s in sentences("Short. " + "word " * 40 + "end.")) == 41
