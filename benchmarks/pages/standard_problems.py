"""docs/standard_problems.md."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.common.standard_problems import PROBLEMS, StandardProblem
from benchmarks.pages.results import read, rows
from benchmarks.standard_figures import points

__all__ = ["calls_for", "page"]

ERRORS = (1e-3, 1e-5, 1e-7)
WRONG = 100
SHARE = 0.75
"""Of the errors that any solver reaches; a solver that reaches fewer is not compared."""
KINDS = {
    "A": "A: one equation",
    "B": "B: small systems",
    "C": "C: larger systems",
    "D": "D: orbits",
    "E": "E: second order",
    "stiff": "stiff",
}

HEAD = """# Standard problems

This page is rendered by `python -m benchmarks.pages` from `benchmarks/results/standard_problems.json`. It compares our
integrators with other libraries on problems that every numerical analyst knows: the 25 non-stiff problems of DETEST
(Hull, Enright, Fellen and Sedgwick 1972) and a stiff test set (Hairer and Wanner; Mazzia and Magherini).

Every solver gets the bare problem with λ = 0, so our exponential integrators have no damping to use. A user who knows
the linear part of a stiff field gives it as λ; [choosing an integrator](choosing_an_integrator.md) measures that.

## How it is measured

- The cost is the number of calls of f on one sample. A finite-difference or automatic Jacobian of d numbers counts as d
  calls or d + 1 calls.
- The error is the largest over components and times, relative to the absolute over the relative tolerance plus |x|. It
  therefore compares with the tolerance. DETEST is measured at ten times, a stiff problem at its end.
- Tolerances go from 1e-3 to 1e-9. A solver that needs more than 30,000 calls at a tolerance stops there.
- The references have at least {digits} digits. Each was computed by two methods, and the file
  `benchmarks/results/standard_references.json` says which. The largest difference between the two is {difference:.0e}.

```bash
python -m benchmarks.standard_references
python -m benchmarks.standard_problems
python -m benchmarks.redraw
python -m benchmarks.pages
```

## Calls of f for the same error

For each problem and each error of 1e-3, 1e-5 and 1e-7, calls are interpolated between tolerances. They are divided by
the calls of the solver that needs fewest. The table has the geometric mean over the errors that a solver reaches, and
in brackets their number, of three per problem. 1.0 would be the best solver of every problem.
"""


def calls_for(cells: Mapping[str, Mapping[str, Any]], error: float) -> float | None:
    """Calls of f for an error, interpolated on logarithmic axes; None if it is not reached."""
    measured = points(cells)
    found = [calls for reached, calls in measured[:1] if reached <= error]
    for (loose, few), (tight, many) in itertools.pairwise(measured):
        if tight <= error < loose:
            share = math.log(loose / error) / math.log(loose / tight)
            found.append(few * (many / few) ** share)
    return min(found) if found else None


def ratios(problems: Sequence[StandardProblem], results: Any) -> dict[str, list[float]]:
    """Solver -> its calls ÷ those of the best solver, for every problem and error that it reaches."""
    found: dict[str, list[float]] = {}
    for problem in problems:
        for error in ERRORS:
            calls = {name: calls_for(cells, error) for name, cells in results[problem.name].items()}
            reached = {name: value for name, value in calls.items() if value is not None}
            for name, value in reached.items():
                found.setdefault(name, []).append(value / min(reached.values()))
    return found


def wrong_answers(results: Any, references: Any) -> Iterator[tuple[str, str, str, str, str]]:
    """The solves that end in success with an error of more than 100 tolerances, beyond what the problem amplifies."""
    for problem, of_problem in results.items():
        amplification = references[problem]["amplification"]
        for solver, cells in of_problem.items():
            for tolerance, cell in cells.items():
                share = (cell.get("error") or 0.0) / float(tolerance)
                if share > WRONG * amplification:
                    yield problem, f"`{solver}`", tolerance, f"{share:,.0f}", f"{amplification:,.1f}"


def reading(by_kind: dict[str, dict[str, list[float]]], solvers: Sequence[str]) -> Iterator[str]:
    """One line per class: the solver with the fewest calls, and where ours are."""
    for kind, found in by_kind.items():
        most = max(len(values) for values in found.values())
        means = {name: geometric(found[name]) for name in solvers if len(found.get(name, [])) >= SHARE * most}
        best = min(means, key=means.__getitem__)
        ours = [f"`{name}` {means[name]:.1f}" for name in solvers[:3] if name in means and name != best]
        lost = [f"`{name}` {len(found.get(name, []))} of {most}" for name in solvers[:3] if name not in means]
        yield f"- {KINDS[kind]}: `{best}` needs the fewest calls, {means[best]:.1f}."
        if ours:
            yield f"  Behind it: {', '.join(ours)}."
        if lost:
            yield f"  Reaches fewer errors: {', '.join(lost)}."


def geometric(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(fmean(math.log(value) for value in values))


def page() -> str:
    """The page as Markdown."""
    measured, references = read("standard_problems"), read("standard_references")["problems"]
    results = measured["results"]
    difference = max(reference["difference"] for reference in references.values())
    lines = [HEAD.format(digits=math.floor(-math.log10(difference)), difference=difference)]
    solvers = list(dict.fromkeys(name for of_problem in results.values() for name in of_problem))
    known = [problem for problem in PROBLEMS if problem.name in results]
    kinds = [kind for kind in KINDS if any(problem.kind == kind for problem in known)]
    by_kind = {kind: ratios([p for p in known if p.kind == kind], results) for kind in kinds}

    def cell(kind: str, solver: str) -> str:
        values = by_kind[kind].get(solver)
        return f"{geometric(values):.1f} ({len(values)})" if values else "none"

    lines += rows(
        ["solver", *(KINDS[kind] for kind in kinds)],
        [[f"`{solver}`", *(cell(kind, solver) for kind in kinds)] for solver in solvers],
    )
    lines += ["", "## Reading", ""]
    lines += reading(by_kind, solvers)
    lines += ["", "## Answers that are far off", ""]
    wrong = list(wrong_answers(results, references))
    lines += [
        f"An answer is wrong if its error is above {WRONG} tolerances times what the problem amplifies, although the",
        "solver reports success. The amplification is the change of the answer by a change of the initial state by one",
        "tolerance.",
        "",
    ]
    lines += rows(["problem", "solver", "tolerance", "error in tolerances", "amplification"], wrong) or []
    ours = sum(name.strip("`") in solvers[:3] for _, name, *_ in wrong)
    lines += ["", f"Wrong answers: {len(wrong)}. Of our integrators: {ours}.", "", "## Figures", ""]
    lines += ["Right is more accurate, below is cheaper. Our integrators have thick lines.", ""]
    lines += ["![Calls of f against the delivered error, DETEST](../benchmarks/results/standard_nonstiff.png)", ""]
    if "stiff" in kinds:
        lines += ["![Calls of f against the delivered error, stiff](../benchmarks/results/standard_stiff.png)", ""]
    versions = ", ".join(f"{name} {value}" for name, value in measured["versions"].items())
    lines += ["## Versions", "", f"{versions}."]
    return "\n".join(lines) + "\n"
