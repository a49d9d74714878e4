"""Calls of f and seconds that an error of 1e-5 along the trajectory costs for ρ = 1 + λ: KenCarp4 and its rivals.

    python -m benchmarks.implicit          half an hour on two quiet cores
    python -m benchmarks.implicit --quick  a minute, small batches, λ = 100; prints only

The fields are the MLP field (d = 64) and a convolutional one without any matrix (d = 4,096). Both are driven in time
and start away from the slow manifold.

- Tolerance: each solver runs at its loosest tolerance, by half decades, that reaches the error. The reference is
  KenCarp4 at 1e-7.
- Calls: counted on the whole batch. SciPy's methods solve one sample and form their Jacobians by differences of calls.
- Budget: a solver that spends its seconds without reaching the error has no number.
- Compiled: KenCarp4 with compile=True. One solve before all timed ones compiles; its seconds are recorded separately.
- Seconds with gradient: a solve and a backward pass to the parameters of f, at the same tolerance. Solves whose graph
  does not fit in memory have none.
"""

import math
import random
import statistics
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
import tyro
from torch import Tensor

from benchmarks.common.cost_figure import cost_against_damping
from benchmarks.common.loosest_tolerance import Cost, backward, loosest_tolerances, measure_diffrax
from benchmarks.common.problems import Problem, conv, counted, mlp
from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.solvers import Solver, floor, ours, scipy_one_sample, torchdiffeq_adaptive
from dampode import odeint
from dampode.integrators import KenCarp4
from dampode.weighting import one_plus

COMPILED = "KenCarp4, compiled"
LAMS = (1e2, 1e3, 1e4)
TARGET = 1e-5
TOLERANCES = [10.0 ** (-k / 2) for k in range(4, 16)]
BACKWARD_CALLS = 6000  # the graph of more calls does not fit in memory


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small batches, λ = 100, one round; prints only"""
    batch: int = 256
    """samples of the MLP field; the convolutional one has one 32nd of them"""
    rounds: int = 3
    """timed runs of every solver"""
    budget: float = 120.0
    """seconds per problem for KenCarp4 and dopri5; the others get a fifth"""
    reference: float = 1e-7
    """tolerance of the reference"""
    seed: int = 0
    """seed of the order of the runs"""


def kencarp(problem: Problem, tol: float) -> Tensor:
    """KenCarp4."""
    return odeint(problem.func, problem.x, problem.t, KenCarp4(tol, tol * floor(problem)))


def kencarp_compiled(problem: Problem, tol: float) -> Tensor:
    """KenCarp4 with compiled iterations."""
    return odeint(problem.func, problem.x, problem.t, KenCarp4(tol, tol * floor(problem), compile=True))


def compile_first(problem: Problem) -> float:
    """Compile for a problem before all timed runs; the seconds that this takes."""
    torch.compiler.reset()
    start = time.perf_counter()
    kencarp_compiled(problem, TOLERANCES[0])
    return time.perf_counter() - start


def solvers(image: bool) -> dict[str, Solver]:
    """Name -> solver; SciPy's form a dense Jacobian, so they are left out for images."""
    named = {
        "KenCarp4": kencarp,
        COMPILED: kencarp_compiled,
        "torchdiffeq dopri5": torchdiffeq_adaptive("dopri5"),
        "AdaptiveExponential": ours,
    }
    scipy = {} if image else {f"SciPy {m}, one sample": scipy_one_sample(m) for m in ("BDF", "LSODA", "Radau")}
    return named | scipy


def measure(problem: Problem, args: Args, order: random.Random) -> dict[str, Cost]:
    """All solvers on one problem: solver -> cost, empty for one that did not reach the error."""
    exact = kencarp(problem, args.reference)
    named = solvers(problem.name == "conv")
    compiling = compile_first(problem)
    long = ("KenCarp4", COMPILED, "torchdiffeq dopri5")
    rows: dict[str, Cost] = {}
    for name, solver in named.items():
        budget = args.budget * (1 if name in long else 0.2)
        found = loosest_tolerances(problem, solver, exact, budget, TOLERANCES, (TARGET,))
        rows[name] = found.get(TARGET, {})
    if rows[COMPILED]:
        rows[COMPILED]["compile s"] = compiling
    time_rows(problem, named, rows, args.rounds, order)
    if problem.name == "MLP":
        for name, by_target in measure_diffrax(problem, exact, args.rounds, args.budget, ("Kvaerno5",)).items():
            if TARGET in by_target:
                rows[name] = {**by_target[TARGET], "s": by_target[TARGET]["forward s"]}
    return rows


def time_rows(
    problem: Problem, named: dict[str, Solver], rows: dict[str, Cost], rounds: int, order: random.Random
) -> None:
    """Add the median seconds of every solve, with and without gradients, over rounds in random order."""
    timings = {(name, "s"): [row["first run s"]] for name, row in rows.items() if row}
    reached = sorted(name for name, row in rows.items() if row)
    for turn in range(rounds):
        for name in order.sample(reached, len(reached)):
            solver, tol = named[name], rows[name]["tolerance"]
            if turn > 0:
                timings[name, "s"].append(counted(problem.func, partial(solver, problem, tol))[1])
            if "SciPy" not in name and rows[name]["calls"] <= BACKWARD_CALLS:
                with torch.enable_grad():
                    _, seconds = counted(problem.func, partial(backward, problem, solver, tol))
                timings.setdefault((name, "with gradient s"), []).append(seconds)
    for (name, kind), found in timings.items():
        rows[name] |= {kind: statistics.median(found), f"{kind}, spread": [min(found), max(found)]}
        rows[name][f"{kind}, n"] = len(found)


def table(name: str, rows: dict[str, Cost]) -> None:
    """Print the table of one problem."""
    print(f"\n{name}: calls of f, seconds, and seconds with gradient for {TARGET:g}")
    for solver, row in rows.items():
        cells = f"{row['calls']:>8} {row['s']:9.3f} {row.get('with gradient s', math.nan):9.3f}" if row else "       -"
        print(f"  {solver:28}" + cells, flush=True)


def figure(results: dict[str, dict[str, Cost]]) -> None:
    """Calls of f and seconds against λ, for the MLP field."""
    costs: dict[str, dict[float, tuple[float, float]]] = {}
    for lam in LAMS:
        for solver, row in results[f"MLP, λ = {lam:g}"].items():
            points = costs.setdefault(solver, {})
            if row:
                points[lam] = row["calls"], row["s"]
    missing = "No point: the solver did not reach the error in its seconds."
    title = "MLP field, d = 64, which ρ makes stiff: what an error of 1e-5 along the trajectory costs"
    cost_against_damping(costs, title, "damping λ, ρ = 1 + λ", missing, RESULTS / "implicit.png")


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, batch=2, rounds=1, budget=40.0, reference=1e-6)
    torch.manual_seed(args.seed)
    order = random.Random(args.seed)
    results: dict[str, dict[str, Cost]] = {}
    about = {**provenance(command(), args.seed), "rounds": args.rounds, "budget s": args.budget}
    unit = "calls of f on the whole batch; seconds, median over rounds"
    problems = [(mlp, lam, args.batch) for lam in LAMS] + [(conv, lam, args.batch // 32) for lam in LAMS]
    for make, lam, batch in problems[: 1 if args.quick else None]:
        problem = make(lam, one_plus, batch=batch)
        name = f"{problem.name}, λ = {lam:g}"
        with torch.no_grad():
            results[name] = measure(problem, args, order)
        table(name, results[name])
        if not args.quick:
            write("implicit", {**about, "unit": unit, "results": results})
    if not args.quick:
        figure(results)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
