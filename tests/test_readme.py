"""The README's table is the measured one, and the pages' code runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_table_is_the_measured_one():
    measured = (ROOT / "benchmarks" / "results" / "cifar10_small" / "table.md").read_text().strip()
    assert measured in (ROOT / "README.md").read_text()


PAGES = [
    "README.md",
    *(
        f"docs/{page}.md"
        for page in (
            "getting_started",
            "training",
            "choosing_an_integrator",
            "gradients",
            "robustness",
            "stability",
            "extending",
        )
    ),
]


@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a page may write files
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
