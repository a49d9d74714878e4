"""The README's table is the measured one, and the pages' code runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_table_is_the_measured_one():
    measured = (ROOT / "benchmarks" / "results" / "cifar10_small" / "table.md").read_text().strip()
    assert measured in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/getting_started.md", "docs/extending.md", "docs/stability.md"])
def test_code_on_the_pages_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
