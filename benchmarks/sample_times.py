"""Times of each sample: one solve of a batch beside a loop of solves, and beside times that all samples share.

    python -m benchmarks.sample_times            prints a table, writes results/sample_times.json
    python -m benchmarks.sample_times --quick    a batch of 16, one round; prints only

Each sample has its own grid of times between 0 and 10. The loop solves one sample after the other; it is timed once,
because it is itself a sum over 256 solves. The forward pass and the gradients of a loss at all times are timed
together. torchode solves the same batch where it is installed, with times of each sample. "shared times" and "equal
rows" are the same problem: the second gives the same times as a row for each sample. Goals: equal rows cost less than
5 % more than shared times, and one solve of a batch of 256 is at least 50 times faster than the loop. In each round the
solves run in a new random order, and the ratio of the two is taken within the round.
"""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.common.problems import Problem, counted, mlp
from benchmarks.common.record import clock, command, provenance, write
from dampode import odeint
from dampode.integrators import AdaptiveExponential, ExponentialAdams, Integrator, Krogstad4

T_END, N_TIMES, LAM, D = 10.0, 10, 1.0, 16
INTEGRATORS: dict[str, Integrator] = {
    "ExponentialAdams": ExponentialAdams(1e-5, 1e-7),
    "AdaptiveExponential": AdaptiveExponential(1e-5, 1e-7),
    "Krogstad4": Krogstad4(4),
}


@dataclass(frozen=True)
class Args:
    """How often and where to measure."""

    quick: bool = False
    """a batch of 16, one round; prints only"""
    batch: int = 256
    """samples"""
    rounds: int = 11
    """solves of each kind but the loop"""
    seed: int = 0
    """seed of states and times"""
    device: str = "cpu"
    """cpu, cuda, ..."""


def own_times(batch: int, seed: int) -> Tensor:
    """A grid from 0 to T_END for each sample, (N, T)."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(batch, N_TIMES - 2, generator=generator, dtype=torch.float64).sort(1).values
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(batch, -1)
    return T_END * torch.cat((ends[:, :1], inner, ends[:, 1:]), 1)


def with_gradients(states: Callable[[], Tensor]) -> None:
    """One solve and its gradients."""
    states().square().mean().backward()


def kinds(problem: Problem, t: Tensor, integrator: Integrator) -> dict[str, Callable[[], Tensor]]:
    """The same problem with shared times, with the same times in a row for each sample, and with times of each."""
    func, x = problem.func, problem.x
    return {
        "shared times": lambda: odeint(func, x, t[0], integrator),
        "equal rows": lambda: odeint(func, x, t[:1].expand(len(x), -1), integrator),
        "own times": lambda: odeint(func, x, t, integrator),
    }


def loop(problem: Problem, t: Tensor, integrator: Integrator) -> None:
    """One sample after the other, with gradients."""
    for x, times in zip(problem.x.split(1), t, strict=True):
        with_gradients(partial(odeint, problem.func, x, times, integrator))


def torchode_solve(problem: Problem, t: Tensor) -> Callable[[], Tensor] | None:
    """The dopri5 of torchode with times of each sample, or None where it is not installed."""
    try:
        import torchode
    except ImportError:
        return None

    def rate(time: Tensor, x: Tensor) -> Tensor:
        dx: Tensor = problem.func(time[:, None], x)
        return dx

    term = torchode.ODETerm(rate)
    controller = torchode.IntegralController(atol=1e-7, rtol=1e-5, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)

    def solve() -> Tensor:
        problem_of_torchode = torchode.InitialValueProblem(y0=problem.x, t_eval=t.to(problem.x))
        ys: Tensor = solver.solve(problem_of_torchode).ys
        return ys

    return solve


def measure(runs: dict[str, Callable[[], Tensor]], problem: Problem, args: Args) -> dict[str, Any]:
    """Seconds of each run in random order, with the calls of f of one run."""
    rows: dict[str, Any] = {name: {"calls": counted(problem.func, run)[0], "seconds": []} for name, run in runs.items()}
    shuffle = random.Random(args.seed).sample
    for _ in range(1 if args.quick else args.rounds):
        for name in shuffle(list(runs), len(runs)):
            start = clock(args.device)
            with_gradients(runs[name])
            rows[name]["seconds"].append(clock(args.device) - start)
    return rows


def summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The median and the spread of each run's seconds, and the ratios that the goals are about."""
    results: dict[str, Any] = {
        name: {
            "calls": row["calls"],
            "median s": statistics.median(row["seconds"]),
            "spread s": [min(row["seconds"]), max(row["seconds"])],
            "n": len(row["seconds"]),
        }
        for name, row in rows.items()
    }
    if "loop" in rows:
        pairs = zip(rows["equal rows"]["seconds"], rows["shared times"]["seconds"], strict=True)
        results["equal rows / shared times"] = statistics.median(own / shared for own, shared in pairs)
        results["loop / own times"] = results["loop"]["median s"] / results["own times"]["median s"]
    return results


def main(args: Args) -> None:
    """Measure, print, and write the result."""
    batch = 16 if args.quick else args.batch
    problem = mlp(LAM, batch=batch, d=D, seed=args.seed)
    problem = replace(problem, func=problem.func.to(args.device), x=problem.x.to(args.device))
    t = own_times(batch, args.seed).to(args.device)
    results: dict[str, Any] = {}
    for name, integrator in INTEGRATORS.items():
        rows = measure(kinds(problem, t, integrator), problem, args)
        calls, seconds = counted(problem.func, partial(loop, problem, t, integrator))
        results[name] = summary({**rows, "loop": {"calls": calls, "seconds": [seconds]}})
    rival = torchode_solve(problem, t)
    if rival is not None:
        results["torchode dopri5"] = summary(measure({"own times": rival}, problem, args))
    for name, rows in results.items():
        for kind, row in rows.items():
            if isinstance(row, float):
                print(f"{name:22} {kind:26} {row:8.3f}")
            else:
                print(f"{name:22} {kind:26} {row['median s']:8.3f} s {row['calls']:7} calls of f")
    if not args.quick:
        write("sample_times", {**provenance(command(), args.seed), "batch": batch, "results": results})


if __name__ == "__main__":
    main(tyro.cli(Args))
