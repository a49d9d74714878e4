"""Calls of f that an error along the whole trajectory costs: ExponentialAdams and its rivals on 41 problems.

    python -m benchmarks.work_precision_calls --workers 2      continues where it stopped; about half an hour

The problems are forced MLPs (d = 32 and 64, weights x1 and x3) and a convolutional field with λ from 0 to 1e4 and per
channel, a pulse, Lotka-Volterra, Van der Pol with μ = 5, Arenstorf's orbit, Lorenz, and the Brusselator with and
without the diagonal of its diffusion as λ, and with all of it as a damping matrix.

- Error: the largest |x − x*| / |x*| over all times, each a norm over the batch.
- Reference x*: dopri8 at 1e-13 where λ is at most 100, ExponentialAdams at 1e-12 elsewhere.
- Tolerance: each solver runs at its loosest tolerance, by half decades, that reaches the error.
- Calls: those of f on the whole batch. LSODA solves one sample, and its calls for Jacobians count.
- A try ends after a fifth of the budget, and a solver that spends its budget has no number for the errors left.
"""

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.common.loosest_tolerance import Cost
from benchmarks.common.problems import (
    Problem,
    arenstorf,
    brusselator,
    brusselator_with_matrix,
    conv,
    counted,
    error,
    lorenz,
    lotka_volterra,
    mlp,
    pulse,
    van_der_pol,
)
from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.solvers import (
    Solver,
    exponential_adams,
    floor,
    ours,
    scipy_one_sample,
    torchdiffeq_adaptive,
    torchode_method,
)
from dampode import odeint
from dampode.damping import Matrix
from dampode.integrators import ExponentialAdams, IntegrationError, TorchDiffEq

OURS = ("ExponentialAdams", "AdaptiveExponential")
NAME = "work_precision_calls"
TARGETS = (1e-3, 1e-5, 1e-7, 1e-9)
TOLERANCES = [10.0 ** (-k / 2) for k in range(2, 25)]
LAMS = (0.0, 1.0, 10.0, 1e2, 1e3, 1e4)
BATCH = 16


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    workers: int = 1
    """number of processes"""
    budget: float = 10.0
    """seconds per solver and problem"""
    only: str = ""
    """problems whose name contains this; empty is all"""
    fresh: bool = False
    """whether to forget what is measured already"""


def problems() -> dict[str, Callable[[], Problem]]:
    """Names and problems."""
    cases: dict[str, Callable[[], Problem]] = {}
    for d in (32, 64):
        spread = torch.logspace(-1, 4, d, dtype=torch.float64)
        for gain in (1.0, 3.0):
            name = f"MLP, d = {d}, weights x{gain:g}, λ"
            for lam in LAMS:
                cases[f"{name} = {lam:g}"] = partial(mlp, lam, batch=BATCH, d=d, gain=gain)
            cases[f"{name} by channel"] = partial(mlp, spread, batch=BATCH, d=d, gain=gain)
    for lam in (1.0, 1e2, 1e4):
        cases[f"convolutions, λ = {lam:g}"] = partial(conv, lam, batch=2)
    for lam in (0.0, 1e2, 1e4):
        cases[f"pulse, λ = {lam:g}"] = partial(pulse, lam)
    classical: dict[str, Callable[[], Problem]] = {
        "Lotka-Volterra": lotka_volterra,
        "Van der Pol, μ = 5": van_der_pol,
        "Arenstorf": arenstorf,
        "Lorenz": lorenz,
        "Brusselator, unsplit": partial(brusselator, False),
        "Brusselator, diagonal as λ": partial(brusselator, True),
        "Brusselator, matrix": brusselator_with_matrix,
    }
    return {**cases, **classical}


def solvers() -> dict[str, Solver | None]:
    """Every solver; None is not installed."""
    return {
        "ExponentialAdams": exponential_adams,
        "AdaptiveExponential": ours,
        "dopri5": torchdiffeq_adaptive("dopri5"),
        "dopri8": torchdiffeq_adaptive("dopri8"),
        "tsit5": torchode_method("Tsit5"),
        "LSODA, one sample": scipy_one_sample("LSODA"),
    }


def undamped(problem: Problem) -> Problem:
    """A problem with a damping matrix as the unsplit one; another problem as it is."""
    return brusselator(False) if isinstance(problem.func.damping, Matrix) else problem


def reference(problem: Problem) -> Tensor:
    """The states that errors are measured against, (T, N, *S)."""
    func, x, t, small = problem.func, problem.x, problem.t, floor(problem)
    if float(func.lam(t[0], x).max()) <= 200:
        return odeint(func, x, t, TorchDiffEq("dopri8", 1e-13, 1e-13 * small))
    return odeint(func, x, t, ExponentialAdams(1e-12, 1e-12 * small))


def costs(problem: Problem, solver: Solver, exact: Tensor, budget: float) -> dict[str, Cost]:
    """For every target error the loosest tolerance that reaches it, and the calls there."""
    found: dict[str, Cost] = {}
    begun = time.perf_counter()
    for tol in TOLERANCES:
        left = budget - (time.perf_counter() - begun)
        if left <= 0 or f"{min(TARGETS):g}" in found:
            break
        kept: list[Tensor] = []
        try:
            calls, _ = counted(problem.func, lambda: kept.append(solver(problem, tol)), min(left, budget / 5))  # noqa: B023
        except (IntegrationError, TimeoutError, AssertionError):
            continue
        got = error(kept[0], exact[:, : kept[0].shape[1]])
        for target in TARGETS:
            if got <= target and f"{target:g}" not in found:
                found[f"{target:g}"] = {"tolerance": tol, "error": got, "calls": calls}
    return found


def measure(name: str, budget: float) -> dict[str, dict[str, Cost]]:
    """All solvers on one problem: solver -> target -> cost."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = problems()[name]()
    plain = undamped(problem)
    with torch.no_grad():
        exact = reference(plain)
        return {
            solver: costs(problem if solver in OURS else plain, run, exact, budget)
            for solver, run in solvers().items()
            if run is not None
        }


def ratios(results: dict[str, dict[str, dict[str, Cost]]]) -> list[tuple[float, str, str, str]]:
    """Calls of ExponentialAdams divided by those of the best rival, with problem, error and rival, worst first.

    Where ExponentialAdams does not reach an error that a rival reaches, the ratio is infinite. Where no rival reaches
    it, there is no ratio.
    """
    found = []
    for name, rows in results.items():
        for target in (f"{target:g}" for target in TARGETS):
            reached = {solver: row[target]["calls"] for solver, row in rows.items() if target in row}
            own = reached.pop(OURS[0], math.inf)
            if reached:
                best = min(reached, key=lambda solver: reached[solver])
                found.append((own / reached[best], name, target, best))
    return sorted(found, reverse=True)


def geometric_mean(values: list[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def report(results: dict[str, dict[str, dict[str, Cost]]]) -> dict[str, Any]:
    """The geometric mean of all finite ratios, per error and in all, and how many cells are lost."""
    cells = ratios(results)
    finite = [cell for cell in cells if cell[0] < math.inf]
    means = {
        target: geometric_mean([ratio for ratio, _, error, _ in finite if error == target])
        for target in (f"{target:g}" for target in TARGETS)
        if any(cell[2] == target for cell in finite)
    }
    return {
        "cells": len(cells),
        "geometric mean": geometric_mean([cell[0] for cell in finite]),
        "geometric mean by error": means,
        "cells above 1.1": sum(cell[0] > 1.1 for cell in cells),
        "error not reached": sum(cell[0] == math.inf for cell in cells),
        "worst": [
            {"problem": name, "error": target, "best rival": best, "ratio": None if ratio == math.inf else ratio}
            for ratio, name, target, best in cells[:20]
        ],
    }


def main(args: Args) -> None:
    """Measure what is not measured yet, and print the ratios."""
    path = RESULTS / f"{NAME}.json"
    results = {} if args.fresh or not path.exists() else json.loads(path.read_text(encoding="utf-8"))["results"]
    names = [name for name in problems() if args.only in name and name not in results]
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = {pool.submit(measure, name, args.budget): name for name in names}
        for job in as_completed(jobs):
            name = jobs[job]
            results[name] = job.result()
            for solver, row in results[name].items():
                print(f"{name:40}{solver:22}", {target: cost["calls"] for target, cost in row.items()}, flush=True)
            ordered = {known: results[known] for known in problems() if known in results}
            settings = {"budget s": args.budget, "not measured": [s for s, run in solvers().items() if run is None]}
            write(NAME, {**provenance(command(), 0), **settings, "summary": report(ordered), "results": ordered})
    print(json.dumps(report(results), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
