"""Calls of f and seconds that an error along the whole trajectory costs, ours beside every rival in the same run.

    python benchmarks/work_precision.py          half an hour on two quiet cores
    python benchmarks/work_precision.py --quick  a few minutes, small batches; prints only

Every problem is non-autonomous and starts away from its slow manifold. The error is the largest over all times of
|x − x*| / |x*|, x* from AdaptiveExponential at 1e-8; each solver runs at its loosest tolerance, by half decades, that
reaches the error (torchdiffeq's dopri5 starts at 1e-4 for λ >= 1e3, where stability and not the tolerance sets its
steps). Seconds are medians over rounds in which all solvers run in a new random order. A solver that spends its budget
of seconds a run without reaching an error has no number for it. The compiled row is ours with compile=True, where
λ <= 10 and a step's own cost decides; its first runs, which compile, stand apart. Rivals that are not installed are
listed as not measured. SciPy's methods solve one sample of the batch; diffrax has the MLP field, forward only,
compiling apart.
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
from benchmarks.common.problems import Problem, conv, counted, error, mlp
from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.solvers import (
    Solver,
    diffrax_solver,
    floor,
    ours,
    ours_compiled,
    scipy_one_sample,
    torchode_dopri5,
)
from benchmarks.common.solvers import torchdiffeq_adaptive as adaptive
from benchmarks.common.solvers import torchdiffeq_fixed as fixed
from dampode import odeint
from dampode.integrators import AdaptiveExponential, IntegrationError
from dampode.weighting import one_plus

TARGETS = (1e-3, 1e-5, 1e-7)
LADDER = [10.0 ** (-k / 2) for k in range(2, 20)]
COMPILED = "AdaptiveExponential, compiled"
COMPILED_ON = tuple(f"MLP, λ = {lam}, ρ = 1" for lam in (0, 1, 10))  # where a step's own cost decides
BACKWARD_CALLS = 1500  # beyond it a graph does not fit in memory


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small batches, fewer λ, one round; prints only"""
    rounds: int = 3
    """timed runs of every solver"""
    budget: float = 2.0
    """seconds a solver and problem; ours and dopri5 get 40 times"""
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
        "AdaptiveExponential": ours,
        COMPILED: ours_compiled,
        "torchdiffeq dopri5": adaptive("dopri5"),
        "torchdiffeq dopri8": adaptive("dopri8"),
        "torchdiffeq bosh3": adaptive("bosh3"),
        "torchdiffeq rk4": fixed("rk4", 4),
        "torchdiffeq implicit_adams": fixed("implicit_adams", 4),
        "SciPy Radau, one sample": scipy_one_sample("Radau"),
        "SciPy LSODA, one sample": scipy_one_sample("LSODA"),
    }
    torchode = torchode_dopri5()
    return named if torchode is None else {**named, "torchode dopri5": torchode}


def climb(
    problem: Problem,
    solver: Solver,
    exact: torch.Tensor,
    budget: float,
    ladder: list[float],
    targets: tuple[float, ...] = TARGETS,
) -> dict[float, dict]:
    """The loosest tolerance for every target error, with its calls of f; stops when the budget is spent."""
    reached: dict[float, dict] = {}
    spent = 0.0
    for tol in ladder:
        kept: list[torch.Tensor] = []
        try:
            calls, seconds = counted(problem.func, lambda: kept.append(solver(problem, tol)), budget - spent)  # noqa: B023
        except IntegrationError:
            continue
        except TimeoutError:
            break
        spent += seconds
        got = error(kept[0], exact[:, : kept[0].shape[1]])
        for target in targets:
            if got <= target and target not in reached:
                reached[target] = {"tolerance": tol, "error": got, "calls": calls, "first run s": seconds}
        if min(targets) in reached or spent > budget:
            break
    return reached


def compiled_rows(problem: Problem, eager: dict[float, dict]) -> dict[float, dict]:
    """The rows of the compiled attempt: the calls are the eager solve's; compiles, with gradients and without."""
    torch.compiler.reset()
    rows = {target: {**row} for target, row in eager.items()}
    for row in rows.values():
        for grad in (False, True):
            start = time.perf_counter()
            if grad:
                backward(problem, ours_compiled, row["tolerance"])
            else:
                with torch.no_grad():
                    ours_compiled(problem, row["tolerance"])
            row["first run with gradient s" if grad else "first run s"] = time.perf_counter() - start
    return rows


def backward(problem: Problem, solver: Solver, tol: float) -> None:
    """Forward and backward to the parameters of f."""
    solver(problem, tol)[-1].sum().backward()


def measure(name: str, problem: Problem, args: Args, order: random.Random) -> dict[str, dict]:
    """All solvers on one problem: {solver: {target: row}}."""
    stiff = float(problem.func.damping(problem.x).max()) >= 1e3
    with torch.no_grad():
        tight = AdaptiveExponential(1e-8, 1e-8 * floor(problem))
        exact = odeint(problem.func, problem.x, problem.t, tight)
        rows = {
            solver: climb(
                problem,
                run,
                exact,
                args.budget * (40 if solver in ("AdaptiveExponential", "torchdiffeq dopri5") else 1),
                LADDER[6:] if solver == "torchdiffeq dopri5" and stiff else LADDER,
            )
            for solver, run in solvers().items()
            if solver != COMPILED and not ("SciPy" in solver and name.startswith("conv"))
        }
    if name in COMPILED_ON:
        rows[COMPILED] = compiled_rows(problem, rows["AdaptiveExponential"])
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
    if name.startswith("MLP"):
        rows.update(measure_diffrax(problem, exact, args.rounds, args.budget))
    return {solver: {f"{target:g}": row for target, row in found.items()} for solver, found in rows.items()}


def measure_diffrax(
    problem: Problem, exact: torch.Tensor, rounds: int, budget: float, names: tuple[str, ...] = ("Tsit5", "Kvaerno5")
) -> dict[str, dict]:
    """Diffrax's solvers, jitted, on the MLP field."""
    rows: dict[str, dict] = {}
    for name in names:
        solver = diffrax_solver(name)
        if solver is None:
            continue
        found: dict[float, dict] = {}
        run, compiling = solver.prepare(problem)
        begun = time.perf_counter()
        for tol in LADDER:
            seconds = []
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


def table(name: str, rows: dict[str, dict]) -> None:
    """Print one problem."""
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


def figure(results: dict[str, dict]) -> None:
    """Calls of f for 1e-5 against λ, MLP, ρ = 1."""
    lams = {f"MLP, λ = {lam:g}, ρ = 1": lam for lam in (0.0, 1.0, 10.0, 1e2, 1e3, 1e4)}
    costs: dict[str, dict[float, tuple[float, float]]] = {}
    for name, lam in lams.items():
        for solver, found in results[name].items():
            points = costs.setdefault(solver, {})
            if "1e-05" in found:
                points[lam] = found["1e-05"]["calls"], found["1e-05"]["forward s"]
    missing = (
        "No point: the solver did not reach the error in its seconds, of which AdaptiveExponential and torchdiffeq's "
        "dopri5 have 40 times the others'; compiled: measured up to λ = 10."
    )
    cost_against_damping(costs, "damping λ, ρ = 1", missing, RESULTS / "work_precision.png")


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, rounds=1, budget=1.0)
    warnings.filterwarnings("ignore", "Functional iteration did not converge")  # implicit_adams, where it fails
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
