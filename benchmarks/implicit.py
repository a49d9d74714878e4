"""ρ = 1 + λ: calls of f and seconds that an error of 1e-5 along the trajectory costs, KenCarp4 beside every rival.

    python benchmarks/implicit.py          half an hour on two quiet cores
    python benchmarks/implicit.py --quick  a minute, small batches, λ = 100

The MLP field (d = 64) and, without any matrix, a convolutional one (d = 4,096), forced in time, from away from the slow
manifold. Each solver runs at its loosest tolerance, by half decades, that reaches the error, beside KenCarp4 at 1e-7.
Calls are counted on the whole batch; SciPy's methods solve one sample and difference their Jacobians with calls. A
solver that spends its budget of seconds has no number. The compiled row is KenCarp4 with compile=True; a solve before
all timed ones compiles, and its seconds stand apart. Seconds with gradient are those of a solve and a backward pass to
f's parameters, at the same tolerance; solves of more calls than a graph in memory allows have none.
"""

import math
import random
import statistics
import time
from dataclasses import dataclass, replace

import torch
import tyro
from torch import Tensor

from benchmarks.common.cost_figure import cost_against_damping
from benchmarks.common.problems import Problem, conv, counted, mlp
from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.solvers import Solver, floor, ours, scipy_one_sample, torchdiffeq_adaptive
from benchmarks.work_precision import backward, climb, measure_diffrax
from dampode import odeint
from dampode.integrators import KenCarp4
from dampode.weighting import one_plus

COMPILED = "KenCarp4, compiled"
LAMS = (1e2, 1e3, 1e4)
TARGET = 1e-5
LADDER = [10.0 ** (-k / 2) for k in range(4, 16)]
BACKWARD_CALLS = 6000  # beyond it an explicit solver's graph does not fit in memory


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small batches, λ = 100, one round; prints only"""
    batch: int = 256
    """samples of the MLP field; the convolutional one has a 32nd"""
    rounds: int = 3
    """timed runs of every solver"""
    budget: float = 120.0
    """seconds for KenCarp4 and dopri5 on a problem; others get a fifth"""
    reference: float = 1e-7
    """tolerance of the reference"""
    seed: int = 0
    """seed of the order of the runs"""


def kencarp(problem: Problem, tol: float) -> Tensor:
    """KenCarp4."""
    return odeint(problem.func, problem.x, problem.t, KenCarp4(tol, tol * floor(problem)))


def kencarp_compiled(problem: Problem, tol: float) -> Tensor:
    """KenCarp4, an iteration compiled."""
    return odeint(problem.func, problem.x, problem.t, KenCarp4(tol, tol * floor(problem), compile=True))


def compile_first(problem: Problem) -> float:
    """Compile for a problem, outside of all timed runs; the seconds of that."""
    torch.compiler.reset()
    start = time.perf_counter()
    kencarp_compiled(problem, LADDER[0])
    return time.perf_counter() - start


def solvers(image: bool) -> dict[str, Solver]:
    """Name -> solver."""
    named = {
        "KenCarp4": kencarp,
        COMPILED: kencarp_compiled,
        "torchdiffeq dopri5": torchdiffeq_adaptive("dopri5"),
        "AdaptiveExponential": ours,
    }
    scipy = {} if image else {f"SciPy {m}, one sample": scipy_one_sample(m) for m in ("BDF", "LSODA", "Radau")}
    return named | scipy


def measure(problem: Problem, args: Args, order: random.Random) -> dict[str, dict]:
    """All solvers on one problem."""
    exact = kencarp(problem, args.reference)
    named = solvers(problem.name == "conv")
    compiling = compile_first(problem)
    long = ("KenCarp4", COMPILED, "torchdiffeq dopri5")
    rows = {}
    for name, solver in named.items():
        budget = args.budget * (1 if name in long else 0.2)
        rows[name] = climb(problem, solver, exact, budget, LADDER, (TARGET,)).get(TARGET, {})
    if rows[COMPILED]:
        rows[COMPILED]["compile s"] = compiling
    timings = {(name, "s"): [row["first run s"]] for name, row in rows.items() if row}
    reached = sorted(name for name, row in rows.items() if row)
    for turn in range(args.rounds):
        for name in order.sample(reached, len(reached)):
            tol = rows[name]["tolerance"]
            if turn > 0:
                timings[name, "s"].append(counted(problem.func, lambda: named[name](problem, tol))[1])  # noqa: B023
            if "SciPy" not in name and rows[name]["calls"] <= BACKWARD_CALLS:
                with torch.enable_grad():
                    _, seconds = counted(problem.func, lambda: backward(problem, named[name], tol))  # noqa: B023
                timings.setdefault((name, "with gradient s"), []).append(seconds)
    for (name, kind), found in timings.items():
        rows[name] |= {kind: statistics.median(found), f"{kind}, spread": [min(found), max(found)]}
        rows[name][f"{kind}, n"] = len(found)
    if problem.name == "MLP":
        for name, found in measure_diffrax(problem, exact, args.rounds, args.budget, ("Kvaerno5",)).items():
            if TARGET in found:
                rows[name] = {**found[TARGET], "s": found[TARGET]["forward s"]}
    return rows


def table(name: str, rows: dict[str, dict]) -> None:
    """Print one problem."""
    print(f"\n{name}: calls of f, seconds, and seconds with gradient for {TARGET:g}")
    for solver, row in rows.items():
        cells = f"{row['calls']:>8} {row['s']:9.3f} {row.get('with gradient s', math.nan):9.3f}" if row else "       -"
        print(f"  {solver:28}" + cells, flush=True)


def figure(results: dict[str, dict]) -> None:
    """Calls and seconds against λ, MLP."""
    costs: dict[str, dict[float, tuple[float, float]]] = {}
    for lam in LAMS:
        for solver, row in results[f"MLP, λ = {lam:g}"].items():
            points = costs.setdefault(solver, {})
            if row:
                points[lam] = row["calls"], row["s"]
    missing = "No point: the solver did not reach the error in its seconds."
    cost_against_damping(costs, "damping λ, ρ = 1 + λ", missing, RESULTS / "implicit.png")


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, batch=2, rounds=1, budget=40.0, reference=1e-6)
    torch.manual_seed(args.seed)
    order, results = random.Random(args.seed), {}
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
