"""The rendered pages are what the results say, and their numbers are those of the files."""

import math

import pytest

from benchmarks.common.standard_problems import PROBLEMS
from benchmarks.pages import performance, standard_problems
from benchmarks.pages.__main__ import DOCS, PAGES
from benchmarks.pages.results import read
from benchmarks.standard_references import Stepper, reference


@pytest.mark.parametrize("name", PAGES)
def test_a_page_equals_what_the_results_render(name):
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run python -m benchmarks.pages"


def test_what_is_behind_comes_first():
    shares = [goal.share for goal in performance.goals()]
    assert shares == sorted(shares)
    text = performance.page()
    first = next(goal for goal in performance.goals())
    assert first.what in text.split("## Met")[0]


def test_a_ratio_and_its_range_are_those_of_the_file():
    found = read("import_time")
    (goal,) = performance.imports()
    ours, theirs = found["rows"][1]["median s"], found["rows"][0]["median s"]
    assert goal.ratio == pytest.approx(theirs / ours, rel=0.1)
    assert goal.low <= goal.ratio <= goal.high


def test_calls_are_interpolated_between_errors():
    cells = {
        "1e-02": {"error": 1e-2, "calls": 10},
        "1e-04": {"error": 1e-4, "calls": 1000},
        "1e-06": {"failed": "more"},
    }
    assert standard_problems.calls_for(cells, 1e-3) == pytest.approx(100)
    assert standard_problems.calls_for(cells, 1.0) == 10
    assert standard_problems.calls_for(cells, 1e-5) is None


def test_references_are_the_closed_forms():
    known = {problem.name: problem for problem in PROBLEMS}
    states = {name: found["states"] for name, found in read("standard_references")["problems"].items()}
    assert set(states) == set(known)
    for k, t in enumerate(known["A1"].times):
        assert states["A1"][k][0] == pytest.approx(math.exp(-t), rel=1e-12)
        assert states["A2"][k][0] == pytest.approx((1 + t) ** -0.5, rel=1e-12)
        assert states["A3"][k][0] == pytest.approx(math.exp(math.sin(t)), rel=1e-12)
        assert states["A4"][k][0] == pytest.approx(20 / (1 + 19 * math.exp(-t / 4)), rel=1e-12)
    assert abs(reference(Stepper(known["D5"])) - states["D5"]).max() < 1e-12
