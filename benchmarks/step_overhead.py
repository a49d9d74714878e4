"""Microseconds a step of a solver costs above its calls of f: ours, torchdiffeq's and torchode's dopri5.

    python benchmarks/step_overhead.py            prints a table, writes results/step_overhead.json and .png
    python benchmarks/step_overhead.py --quick    prints only

f is sin; the seconds of its calls alone, on the same states, are taken off. Rounds run all solvers in a new random
order. Goal: at most a fifth of torchdiffeq's dopri5. The compiled rows are AdaptiveExponential(compile=True) and a
fixed-step solve under torch.compile(fullgraph=True); they compile before they are timed, and their calls of f are
those of the same solve in eager mode.
"""

import random
import statistics
from dataclasses import dataclass

import matplotlib as mpl
import torch
import tyro

from benchmarks.common.problems import Problem, counted
from benchmarks.common.record import RESULTS, clock, command, provenance, write
from benchmarks.common.solvers import ours, ours_compiled, torchdiffeq_adaptive, torchode_dopri5
from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.integrators import Krogstad4

STAGES = {
    "AdaptiveExponential": 4,
    "torchdiffeq dopri5": 6,
    "torchode dopri5": 6,
    "AdaptiveExponential, compiled": 4,
    "Krogstad4": 4,
    "Krogstad4, compiled": 4,
}


@dataclass(frozen=True)
class Args:
    """How often and where to measure."""

    quick: bool = False
    """three rounds, no compilation; prints only"""
    rounds: int = 20
    """solves of every solver"""
    seed: int = 0
    """seed of states and orders"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


def fixed(compiled: bool):
    """A solve of 50 fixed steps as a function of (problem, tolerance)."""

    def solve(func, x):
        return Krogstad4(steps=50)(func, x, 0.0, 10.0)

    run = torch.compile(solve, fullgraph=True) if compiled else solve
    return lambda problem, tol: run(problem.func, problem.x)


def overhead(problem: Problem, solver, calls: int, stages: int) -> float:
    """Microseconds a step, one solve of so many calls."""
    device = problem.x.device
    start = clock(device)
    solver(problem, 1e-6)
    total = clock(device) - start
    start = clock(device)
    for _ in range(calls):
        problem.func.f(problem.t[0], problem.x)
    own = clock(device) - start
    return 1e6 * (total - own) / (calls / stages)


def figure(results: dict[str, dict]) -> None:
    """A bar a solver, the longest on top, with the range of the rounds."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, len(results), figsize=(11, 3), layout="constrained")
    for ax, (name, rows) in zip(axes, results.items(), strict=True):
        batch, d = (word.split()[1] for word in name.split(","))
        order = sorted(rows, key=lambda solver, rows=rows: rows[solver]["median us"])
        medians = [rows[solver]["median us"] for solver in order]
        spreads = zip(*(rows[solver]["spread us"] for solver in order), strict=True)
        ends = [[abs(a - b) for a, b in zip(end, medians, strict=True)] for end in spreads]
        colors = ["C1" if "dopri5" in solver else "C0" for solver in order]
        ax.barh(order, medians, xerr=ends, color=colors, error_kw={"ecolor": "0.4", "lw": 1})
        ax.set(title=f"batch of {batch}, {d} numbers a sample", xlabel="µs a step beside the calls of f")
    plt.savefig(RESULTS / "step_overhead.png", dpi=150)


def main(args: Args) -> None:
    rounds = 3 if args.quick else args.rounds
    torch.manual_seed(args.seed)
    order = random.Random(args.seed)
    solvers = {
        "AdaptiveExponential": ours,
        "torchdiffeq dopri5": torchdiffeq_adaptive("dopri5"),
        "torchode dopri5": torchode_dopri5(),
        "Krogstad4": fixed(compiled=False),
    }
    if not args.quick:
        solvers["AdaptiveExponential, compiled"] = ours_compiled
        solvers["Krogstad4, compiled"] = fixed(compiled=True)
    solvers = {name: solver for name, solver in solvers.items() if solver is not None}
    results: dict[str, dict] = {}
    for name, shape in {"batch 8, d 8": (8, 8), "batch 1024, d 64": (1024, 64)}.items():
        x = torch.randn(*shape, device=args.device)
        t = torch.tensor([0.0, 10.0], device=args.device)
        problem = Problem(name, DampedODEFunc(torch.sin, Constant(1.0)).to(args.device), x, t)
        calls = {}
        with torch.no_grad():
            for label, solver in solvers.items():
                eager = ours if solver is ours_compiled else solver
                calls[label] = (
                    200 if label.startswith("Krogstad4") else counted(problem.func, lambda s=eager: s(problem, 1e-6))[0]  # noqa: B023
                )
                solver(problem, 1e-6)
            samples: dict[str, list[float]] = {label: [] for label in solvers}
            for _ in range(rounds):
                for label in order.sample(list(solvers), len(solvers)):
                    samples[label].append(overhead(problem, solvers[label], calls[label], STAGES[label]))
        results[name] = {
            label: {"median us": statistics.median(s), "spread us": [min(s), max(s)], "n": len(s)}
            for label, s in samples.items()
        }
        base = results[name]["torchdiffeq dopri5"]["median us"]
        print(f"\n{name}: microseconds a step above the calls of f")
        for label, row in results[name].items():
            low, high = row["spread us"]
            print(
                f"{label:32} {row['median us']:9.0f}  ({low:.0f} to {high:.0f})  {row['median us'] / base:6.2f}x dopri5"
            )
    if args.quick:
        return
    write("step_overhead", {**provenance(command(), args.seed), "device": args.device, "results": results})
    figure(results)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
