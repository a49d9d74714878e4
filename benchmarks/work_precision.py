"""Calls of f and seconds that an error along the whole trajectory costs: ExponentialAdams and its rivals.

    python -m benchmarks.work_precision          half an hour on two quiet cores
    python -m benchmarks.work_precision --quick  a few minutes, small batches; prints only

Every problem is non-autonomous and starts away from its slow manifold.

- Error: the largest |x − x*| / |x*| over all times. The reference x* is AdaptiveExponential at 1e-8.
- Tolerance: each solver runs at its loosest tolerance, by half decades, that reaches the error. For λ >= 1e3
  torchdiffeq's dopri5 starts at 1e-4, because stability sets its steps there, not the tolerance.
- Seconds: medians over rounds. In each round all solvers run in a new random order.
- Budget: a solver that spends its budget without reaching an error has no number for it.
- Compiled: ExponentialAdams with compile=True, for λ <= 10, where the cost of a step itself decides. Its first runs
  compile and are recorded separately.
- Rivals: SciPy's methods solve one sample of the batch. diffrax has the MLP field and no gradients, and its compilation
  is recorded separately. Rivals that are not installed are listed as not measured.
"""

import math
import random
import statistics
import time
import warnings
from dataclasses import dataclass, replace

import torch
import tyro

from benchmarks.common.cost_figure import cost_against_damping
from benchmarks.common.loosest_tolerance import (
    TARGETS,
    TOLERANCES,
    Cost,
    backward,
    loosest_tolerances,
    measure_diffrax,
)
from benchmarks.common.problems import Problem, conv, mlp
from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.solvers import (
    Solver,
    exponential_adams,
    exponential_adams_compiled,
    floor,
    ours,
    scipy_one_sample,
    torchdiffeq_adaptive,
    torchdiffeq_fixed,
    torchode_method,
)
from dampode import odeint
from dampode.integrators import AdaptiveExponential
from dampode.weighting import one_plus

OURS, PAIR, DOPRI5 = "ExponentialAdams", "AdaptiveExponential", "torchdiffeq dopri5"
COMPILED = f"{OURS}, compiled"
COMPILED_ON = tuple(f"MLP, λ = {lam}, ρ = 1" for lam in (0, 1, 10))
BACKWARD_CALLS = 1500  # the graph of more calls does not fit in memory


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small batches, fewer λ, one round; prints only"""
    rounds: int = 3
    """timed runs of every solver"""
    budget: float = 2.0
    """seconds per solver and problem; our solvers and dopri5 get 40 times as many"""
    seed: int = 0
    """seed of the order of the runs"""


def problems(quick: bool) -> list[tuple[str, Problem]]:
    """Names and problems."""
    batch, image = (16, 4) if quick else (256, 32)
    lams = (0.0, 1e2) if quick else (0.0, 1.0, 10.0, 1e2, 1e3, 1e4)
    cases = [(f"MLP, λ = {lam:g}, ρ = 1", mlp(lam, batch=batch)) for lam in lams]
    spread = torch.logspace(-1, 4, 64, dtype=torch.float64)
    cases.append(("MLP, λ from 0.1 to 1e4 by channel, ρ = 1", mlp(spread, batch=batch)))
    stiff = (1e2,) if quick else (10.0, 1e2)
    cases += [(f"MLP, λ = {lam:g}, ρ = 1 + λ", mlp(lam, one_plus, batch=batch)) for lam in stiff]
    cases += [(f"conv, λ = {lam:g}, ρ = 1", conv(lam, batch=image)) for lam in ((1e2,) if quick else (1.0, 1e2, 1e4))]
    return cases


def solvers() -> dict[str, Solver]:
    """Every solver on tensors."""
    named = {
        OURS: exponential_adams,
        COMPILED: exponential_adams_compiled,
        PAIR: ours,
        DOPRI5: torchdiffeq_adaptive("dopri5"),
        "torchdiffeq dopri8": torchdiffeq_adaptive("dopri8"),
        "torchdiffeq bosh3": torchdiffeq_adaptive("bosh3"),
        "torchdiffeq rk4": torchdiffeq_fixed("rk4", 4),
        "torchdiffeq implicit_adams": torchdiffeq_fixed("implicit_adams", 4),
        "SciPy Radau, one sample": scipy_one_sample("Radau"),
        "SciPy LSODA, one sample": scipy_one_sample("LSODA"),
    }
    torchode = torchode_method("Dopri5")
    return named if torchode is None else {**named, "torchode dopri5": torchode}


def compiled_rows(problem: Problem, eager: dict[float, Cost]) -> dict[float, Cost]:
    """The rows of the compiled solver, with the calls of the eager one; compiles with gradients and without."""
    torch.compiler.reset()
    rows = {target: {**row} for target, row in eager.items()}
    for row in rows.values():
        for grad in (False, True):
            start = time.perf_counter()
            if grad:
                backward(problem, exponential_adams_compiled, row["tolerance"])
            else:
                with torch.no_grad():
                    exponential_adams_compiled(problem, row["tolerance"])
            row["first run with gradient s" if grad else "first run s"] = time.perf_counter() - start
    return rows


def measure(name: str, problem: Problem, args: Args, order: random.Random) -> dict[str, dict[str, Cost]]:
    """All solvers on one problem: solver -> target -> cost."""
    with torch.no_grad():
        tight = AdaptiveExponential(1e-8, 1e-8 * floor(problem))
        exact = odeint(problem.func, problem.x, problem.t, tight)
        rows = {
            solver: loosest_tolerances(problem, run, exact, budget_of(solver, args), tolerances_of(solver, problem))
            for solver, run in solvers().items()
            if solver != COMPILED and not ("SciPy" in solver and name.startswith("conv"))
        }
    if name in COMPILED_ON:
        rows[COMPILED] = compiled_rows(problem, rows[OURS])
    time_rows(problem, rows, args, order)
    if name.startswith("MLP"):
        rows.update(measure_diffrax(problem, exact, args.rounds, args.budget))
    return {solver: {f"{target:g}": row for target, row in found.items()} for solver, found in rows.items()}


def budget_of(solver: str, args: Args) -> float:
    """Seconds that a solver may spend on one problem."""
    return args.budget * (40 if solver in (OURS, PAIR, DOPRI5) else 1)


def tolerances_of(solver: str, problem: Problem) -> list[float]:
    """The tolerances to try; for dopri5 on a stiff problem stability sets the step, so it starts at 1e-4."""
    stiff = float(problem.func.lam(problem.t[0], problem.x).max()) >= 1e3
    return TOLERANCES[6:] if solver == DOPRI5 and stiff else TOLERANCES


def time_rows(problem: Problem, rows: dict[str, dict[float, Cost]], args: Args, order: random.Random) -> None:
    """Add the median seconds of every solve, with and without gradients, over rounds in random order."""
    timings: dict[tuple[str, float, str], list[float]] = {}
    jobs = [(solver, target) for solver, found in rows.items() for target in found]
    for turn in range(args.rounds):
        for solver, target in order.sample(jobs, len(jobs)):
            row, run = rows[solver][target], solvers()[solver]
            if turn > 0 and solver != COMPILED and row["first run s"] > args.budget / 10:
                continue  # a long run is measured once
            start = time.perf_counter()
            with torch.no_grad():
                run(problem, row["tolerance"])
            timings.setdefault((solver, target, "forward s"), []).append(time.perf_counter() - start)
            if "SciPy" not in solver and row["calls"] <= BACKWARD_CALLS:
                start = time.perf_counter()
                backward(problem, run, row["tolerance"])
                timings.setdefault((solver, target, "forward + backward s"), []).append(time.perf_counter() - start)
    for (solver, target, kind), seconds in timings.items():
        rows[solver][target][kind] = statistics.median(seconds)
        rows[solver][target][f"{kind}, spread"] = [min(seconds), max(seconds)]
        rows[solver][target][f"{kind}, n"] = len(seconds)


def table(name: str, rows: dict[str, dict[str, Cost]]) -> None:
    """Print the table of one problem."""
    print(f"\n{name}\n{'':34}" + "".join(f"{f'calls, s, s with gradient at {t:g}':>38}" for t in TARGETS))
    for solver, found in rows.items():
        cells = []
        for target in TARGETS:
            row = found.get(f"{target:g}")
            cells.append(
                "-"
                if row is None
                else f"{row['calls']}  {row.get('forward s', math.nan):.3f}  "
                f"{row.get('forward + backward s', math.nan):.3f}"
            )
        print(f"{solver:34}" + "".join(f"{c:>38}" for c in cells), flush=True)


def figure(results: dict[str, dict[str, dict[str, Cost]]]) -> None:
    """Calls of f and seconds for an error of 1e-5 against λ, for the MLP field with ρ = 1."""
    lams = {f"MLP, λ = {lam:g}, ρ = 1": lam for lam in (0.0, 1.0, 10.0, 1e2, 1e3, 1e4)}
    costs: dict[str, dict[float, tuple[float, float]]] = {}
    for name, lam in lams.items():
        for solver, found in results[name].items():
            points = costs.setdefault(solver, {})
            if "1e-05" in found:
                points[lam] = found["1e-05"]["calls"], found["1e-05"]["forward s"]
    missing = (
        "No point: the solver did not reach the error in its seconds. Our solvers and torchdiffeq's dopri5 "
        "have 40 times as many seconds as the others. Compiled: measured up to λ = 10."
    )
    title = "MLP field, d = 64: what an error of 1e-5 along the trajectory costs"
    cost_against_damping(costs, title, "damping λ, ρ = 1", missing, RESULTS / "work_precision.png")


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, rounds=1, budget=1.0)
    warnings.filterwarnings("ignore", "Functional iteration did not converge")  # a warning of implicit_adams
    torch.manual_seed(args.seed)
    order = random.Random(args.seed)
    results = {}
    for name, problem in problems(args.quick):
        results[name] = measure(name, problem, args, order)
        table(name, results[name])
    wanted = {"torchode dopri5", "diffrax Tsit5", "diffrax Kvaerno5"}
    missing = sorted(wanted - {solver for rows in results.values() for solver in rows})
    print("\nnot measured:", ", ".join(missing) or "nothing")
    if args.quick:
        return
    write(
        "work_precision",
        {
            **provenance(command(), args.seed),
            "rounds": args.rounds,
            "budget s": args.budget,
            "unit": "seconds, median over rounds; calls of f on the whole batch",
            "not measured": missing,
            "results": results,
        },
    )
    figure(results)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
