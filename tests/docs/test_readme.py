"""The README's table is the measured one, and the pages' code runs."""

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
        assert f" | {row} |" in (ROOT / "README.md").read_text()


PAGES = [
    "README.md",
    *(
        f"docs/{page}.md"
        for page in (
            "getting_started",
            "from_torchdiffeq",
            "training",
            "choosing_an_integrator",
            "gradients",
            "irregular_series",
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
