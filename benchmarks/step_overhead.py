"""Microseconds per step that a solver costs beyond its calls of f: ours, torchdiffeq's dopri5 and torchode's dopri5.

    python -m benchmarks.step_overhead            prints a table, writes results/step_overhead.json and .png
    python -m benchmarks.step_overhead --quick    three rounds, no compilation; prints only

f is sin. The seconds of its calls alone, on the same states, are subtracted. In each round all solvers run in a new
random order. Goal, per call of f: at most 1.5 times torchdiffeq's dopri5, and compiled at most a quarter of it. The
compiled rows are ExponentialAdams(compile=True), AdaptiveExponential(compile=True) and a fixed-step solve under
torch.compile(fullgraph=True). They compile before they are timed, and their calls of f are those of the same solve in
eager mode.
"""

import random
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import torch
import tyro
from torch import Tensor

from benchmarks.common.palette import style
from benchmarks.common.problems import Problem, counted
from benchmarks.common.record import RESULTS, clock, command, provenance, write
from benchmarks.common.solvers import (
    Solver,
    exponential_adams,
    exponential_adams_compiled,
    ours,
    ours_compiled,
    torchdiffeq_adaptive,
    torchode_method,
)
from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.integrators import Krogstad4

FIXED_STEPS = 50
STAGES = {
    "ExponentialAdams": 1,
    "AdaptiveExponential": 4,
    "torchdiffeq dopri5": 6,
    "torchode dopri5": 6,
    "ExponentialAdams, compiled": 1,
    "AdaptiveExponential, compiled": 4,
    "Krogstad4": 4,
    "Krogstad4, compiled": 4,
}
"""Calls of f per step; ExponentialAdams counts its second evaluations as steps."""
EAGER: dict[Solver, Solver] = {ours_compiled: ours, exponential_adams_compiled: exponential_adams}
"""Compiled solver -> the one that makes the same calls."""
TOL = 1e-6
SHAPES = {"batch 8, d 8": (8, 8), "batch 1024, d 64": (1024, 64)}
Rows = dict[str, dict[str, Any]]
"""Solver -> median, range and number of rounds."""


@dataclass(frozen=True)
class Args:
    """How often and where to measure."""

    quick: bool = False
    """three rounds, no compilation; prints only"""
    rounds: int = 20
    """solves per solver"""
    seed: int = 0
    """seed of states and orders"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


def fixed(compiled: bool) -> Solver:
    """A solver with fixed steps; it ignores the tolerance."""

    def solve(func: DampedODEFunc, x: Tensor) -> Tensor:
        return Krogstad4(steps=FIXED_STEPS)(func, x, 0.0, 10.0)

    run = torch.compile(solve, fullgraph=True) if compiled else solve
    return lambda problem, tol: run(problem.func, problem.x)


def overhead(problem: Problem, solver: Solver, calls: int, stages: int) -> float:
    """Microseconds per step beyond the calls of f, from one solve with this many calls."""
    device = problem.x.device
    start = clock(device)
    solver(problem, TOL)
    total = clock(device) - start
    start = clock(device)
    for _ in range(calls):
        problem.func.f(problem.t[0], problem.x)
    own = clock(device) - start
    return 1e6 * (total - own) / (calls / stages)


def figure(results: dict[str, Rows]) -> None:
    """Draw one bar per solver, the longest on top, with the range over the rounds."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(12, 3.6), layout="constrained")
    for ax, (name, rows) in zip(axes, results.items(), strict=True):
        batch, d = (word.split()[1] for word in name.split(","))
        order = sorted(rows, key=lambda solver: rows[solver]["median us"])
        medians = [rows[solver]["median us"] for solver in order]
        spreads = zip(*(rows[solver]["spread us"] for solver in order), strict=True)
        ends = [[abs(a - b) for a, b in zip(end, medians, strict=True)] for end in spreads]
        colors = [style(solver).color for solver in order]
        hatches = ["//" if "compiled" in solver else "" for solver in order]
        ax.barh(order, medians, color=colors, hatch=hatches, edgecolor="white")
        ax.errorbar(medians, order, xerr=ends, fmt="none", ecolor="0.4", capsize=3, lw=1)
        for place, (median, high) in enumerate(zip(medians, ends[1], strict=True)):
            ax.annotate(f"{median:,.0f}", (median + high, place), (4, 0), textcoords="offset points", va="center")
        ax.set(title=f"batch {batch}, {d} numbers per sample", xlabel="µs per step beyond the calls of f")
        ax.set_xlim(right=1.2 * max(rows[solver]["spread us"][1] for solver in order))
    rounds = max(row["n"] for rows in results.values() for row in rows.values())
    figure.suptitle(f"What a step costs besides f: median, and range over {rounds} rounds (hatched: compiled)")
    figure.savefig(RESULTS / "step_overhead.png", dpi=150)
    plt.close(figure)


def solvers(compiled: bool) -> dict[str, Solver]:
    """Every solver that is installed, by name."""
    named: dict[str, Solver | None] = {
        "ExponentialAdams": exponential_adams,
        "AdaptiveExponential": ours,
        "torchdiffeq dopri5": torchdiffeq_adaptive("dopri5"),
        "torchode dopri5": torchode_method("Dopri5"),
        "Krogstad4": fixed(compiled=False),
    }
    if compiled:
        named["ExponentialAdams, compiled"] = exponential_adams_compiled
        named["AdaptiveExponential, compiled"] = ours_compiled
        named["Krogstad4, compiled"] = fixed(compiled=True)
    return {name: solver for name, solver in named.items() if solver is not None}


def calls_of(name: str, solver: Solver, problem: Problem) -> int:
    """Calls of f in one solve; a compiled solver makes those of the eager one."""
    if name.startswith("Krogstad4"):
        return FIXED_STEPS * STAGES[name]
    return counted(problem.func, partial(EAGER.get(solver, solver), problem, TOL))[0]


def measure(problem: Problem, named: dict[str, Solver], rounds: int, order: random.Random) -> Rows:
    """The overhead of every solver on one problem."""
    calls = {}
    samples: dict[str, list[float]] = {name: [] for name in named}
    with torch.no_grad():
        for name, solver in named.items():
            calls[name] = calls_of(name, solver, problem)
            solver(problem, TOL)
        for _ in range(rounds):
            for name in order.sample(list(named), len(named)):
                samples[name].append(overhead(problem, named[name], calls[name], STAGES[name]))
    return {
        name: {"median us": statistics.median(us), "spread us": [min(us), max(us)], "n": len(us)}
        for name, us in samples.items()
    }


def table(name: str, rows: Rows) -> None:
    """Print the table of one problem."""
    base = rows["torchdiffeq dopri5"]["median us"]
    print(f"\n{name}: microseconds per step beyond the calls of f")
    for solver, row in rows.items():
        low, high = row["spread us"]
        print(f"{solver:32} {row['median us']:9.0f}  ({low:.0f} to {high:.0f})  {row['median us'] / base:6.2f}x dopri5")


def main(args: Args) -> None:
    rounds = 3 if args.quick else args.rounds
    torch.manual_seed(args.seed)
    order, named = random.Random(args.seed), solvers(compiled=not args.quick)
    results: dict[str, Rows] = {}
    for name, shape in SHAPES.items():
        x = torch.randn(*shape, device=args.device)
        t = torch.tensor([0.0, 10.0], device=args.device)
        problem = Problem(name, DampedODEFunc(torch.sin, Constant(1.0)).to(args.device), x, t)
        results[name] = measure(problem, named, rounds, order)
        table(name, results[name])
    if args.quick:
        return
    write("step_overhead", {**provenance(command(), args.seed), "device": args.device, "results": results})
    figure(results)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
