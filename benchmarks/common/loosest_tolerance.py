"""The loosest tolerance at which a solver reaches an error, and what the solve costs there."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.problems import Problem, counted, error
from benchmarks.common.solvers import Solver, diffrax_solver
from dampode.integrators import IntegrationError

__all__ = ["TARGETS", "TOLERANCES", "Cost", "backward", "loosest_tolerances", "measure_diffrax"]

TARGETS = (1e-3, 1e-5, 1e-7)
"""Relative errors along the trajectory."""
TOLERANCES = [10.0 ** (-k / 2) for k in range(2, 20)]
"""Relative tolerances that are tried, by half decades."""

Cost = dict[str, Any]
"""Tolerance, error, calls of f and seconds of a solve."""


def loosest_tolerances(
    problem: Problem,
    solver: Solver,
    exact: Tensor,
    budget: float,
    tolerances: Sequence[float] = TOLERANCES,
    targets: Sequence[float] = TARGETS,
) -> dict[float, Cost]:
    """For every target error the loosest tolerance that reaches it.

    Args:
        problem: what is solved.
        solver: solves it to a tolerance.
        exact: the reference trajectory, (T, N, *S).
        budget: seconds for all tries; a target that is not reached in time is left out.
        tolerances: tried in this order, loosest first.
        targets: relative errors.

    Returns:
        Target -> its tolerance, error, calls of f and seconds.
    """
    reached: dict[float, Cost] = {}
    spent = 0.0
    for tol in tolerances:
        kept: list[Tensor] = []
        try:
            calls, seconds = counted(problem.func, lambda: kept.append(solver(problem, tol)), budget - spent)  # noqa: B023
        except IntegrationError:
            continue
        except TimeoutError:
            break
        spent += seconds
        found = error(kept[0], exact[:, : kept[0].shape[1]])
        for target in targets:
            if found <= target and target not in reached:
                reached[target] = {"tolerance": tol, "error": found, "calls": calls, "first run s": seconds}
        if min(targets) in reached or spent > budget:
            break
    return reached


def backward(problem: Problem, solver: Solver, tol: float) -> None:
    """Solve, and backpropagate to the parameters of f."""
    solver(problem, tol)[-1].sum().backward()


def measure_diffrax(
    problem: Problem, exact: Tensor, rounds: int, budget: float, names: tuple[str, ...] = ("Tsit5", "Kvaerno5")
) -> dict[str, dict[float, Cost]]:
    """The same for diffrax's solvers, jitted, on the MLP field: solver -> target -> cost.

    Args:
        problem: with the MLP field.
        exact: the reference trajectory, (T, N, *S).
        rounds: timed runs per tolerance; a run longer than a tenth of the budget is timed once.
        budget: seconds per solver.
        names: of diffrax's solvers; those that are not installed are left out.
    """
    rows: dict[str, dict[float, Cost]] = {}
    for name in names:
        solver = diffrax_solver(name)
        if solver is None:
            continue
        found: dict[float, Cost] = {}
        run, compiling = solver.prepare(problem)
        begun = time.perf_counter()
        for tol in TOLERANCES:
            seconds: list[float] = []
            for _ in range(rounds):
                start = time.perf_counter()
                xs, calls = run(tol)
                seconds.append(time.perf_counter() - start)
                if seconds[-1] > budget / 10:
                    break
            got = error(torch.from_numpy(xs), exact)
            for target in TARGETS:
                if got <= target and target not in found:
                    found[target] = {
                        "tolerance": tol,
                        "error": got,
                        "calls": calls,
                        "compile s": compiling,
                        "forward s": statistics.median(seconds),
                        "forward s, spread": [min(seconds), max(seconds)],
                        "forward s, n": len(seconds),
                    }
            if min(TARGETS) in found or time.perf_counter() - begun > budget:
                break
        rows[f"diffrax {name}"] = found
    return rows
