"""The rule of the default integrator holds: `ExponentialAdams` everywhere, because it needs the fewest calls of f."""

import inspect
import json

import pytest

from benchmarks.common.record import RESULTS
from dampode import odeint, odeint_event, solve
from dampode.integrators import ExponentialAdams


@pytest.mark.parametrize("function", [odeint, solve, odeint_event])
def test_there_is_one_default(function):
    assert inspect.signature(function).parameters["integrator"].default == ExponentialAdams()


def test_the_default_needs_at_most_three_quarters_of_the_calls_of_the_one_step_method():
    results = json.loads((RESULTS / "work_precision.json").read_text(encoding="utf-8"))["results"]
    cells = [
        (rows["ExponentialAdams"][error]["calls"], row["calls"])
        for rows in results.values()
        for error, row in rows["AdaptiveExponential"].items()
    ]
    assert len(cells) > 30
    assert all(own <= 0.75 * other for own, other in cells)
