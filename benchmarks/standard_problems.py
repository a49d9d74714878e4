"""Calls of f against the delivered error on the standard problems, at tolerances from 1e-3 to 1e-9.

python -m benchmarks.standard_problems [--kinds A B]

Every solver gets λ = 0 and one sample. A cell that is in the result file is not measured again. If a solver needs more
than 30,000 calls at a tolerance, it is not tried at tighter ones. The error is the largest over components and times,
relative to the absolute over the relative tolerance plus |x|, so that it compares with the tolerance. For the
references run benchmarks.standard_references first. torchode and diffrax are optional.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.common.record import RESULTS, command, provenance, write
from benchmarks.common.standard_problems import PROBLEMS, StandardProblem
from benchmarks.standard_references import NAME as REFERENCES
from dampode import DampedODEFunc, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import (
    AdaptiveExponential,
    ExponentialAdams,
    IntegrationError,
    Integrator,
    KenCarp4,
    Status,
    TorchDiffEq,
)

__all__ = ["BUDGET", "NAME", "SOLVERS", "TOLERANCES", "main"]

NAME = "standard_problems"
TOLERANCES = tuple(10.0**-k for k in range(3, 10))
BUDGET = 30_000
"""Calls of f."""
OVER = "more than 30,000 calls"

States = NDArray[np.float64]
Answer = tuple[States, int]
"""States at the times (T, d), and the calls of f."""
Solver = Callable[[StandardProblem, float], Answer]


class BudgetError(RuntimeError):
    """The calls are spent."""


class UnsolvedError(RuntimeError):
    """The solver stopped early."""


class Field(VectorField):
    """The right-hand side as f, which counts its calls."""

    def __init__(self, problem: StandardProblem) -> None:
        super().__init__()
        self.rate, self.calls = problem.rate, 0

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        self.calls += 1
        if self.calls > BUDGET:
            raise BudgetError
        return torch.stack(self.rate(torch, torch.as_tensor(t, dtype=x.dtype).reshape(-1), x.unbind(1)), 1)


def times(problem: StandardProblem) -> Tensor:
    """0 and the times of a problem."""
    return torch.tensor([0.0, *problem.times], dtype=torch.float64)


def start(problem: StandardProblem) -> Tensor:
    """The initial state, (1, d)."""
    return torch.tensor([problem.x], dtype=torch.float64)


def by_dampode(make: Callable[[float, float], Integrator]) -> Solver:
    """An integrator of dampode."""

    def run(problem: StandardProblem, tol: float) -> Answer:
        func = DampedODEFunc(Field(problem), Constant(0.0))
        with torch.no_grad():
            solution = solve(func, start(problem), times(problem), make(tol, tol * problem.scale))
        if solution.status[0] is not Status.SUCCESS:
            raise UnsolvedError(solution.status[0].name)
        return solution.x[1:, 0].numpy(), int(solution.nfe[0])

    return run


def by_scipy(method: str) -> Solver:
    """A method of SciPy; the calls for its Jacobians count."""

    def run(problem: StandardProblem, tol: float) -> Answer:
        calls = 0

        def rhs(t: float, x: States) -> States:
            nonlocal calls
            calls += 1
            if calls > BUDGET:
                raise BudgetError
            return np.array(problem.rate(np, t, x))

        span, atol = (0.0, problem.times[-1]), tol * problem.scale
        solved = solve_ivp(rhs, span, np.array(problem.x), method, problem.times, rtol=tol, atol=atol)
        if not solved.success:
            raise UnsolvedError(solved.message)
        return solved.y.T, calls

    return run


def by_torchode(problem: StandardProblem, tol: float) -> Answer:
    """Torchode's tsit5."""
    import torchode

    field = Field(problem)
    term = torchode.ODETerm(lambda t, y: field(t, y))
    control = torchode.IntegralController(atol=tol * problem.scale, rtol=tol, term=term)
    at = torchode.InitialValueProblem(y0=start(problem), t_eval=times(problem)[None])
    with torch.no_grad():
        solved = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), control).solve(at)
    if int(solved.status[0]) != 0:
        raise UnsolvedError(f"status {int(solved.status[0])}")
    return solved.ys[0, 1:].numpy(), field.calls


@cache
def diffrax_tsit5(problem: StandardProblem) -> Callable[[float], Any]:
    """The jitted solve of a problem, a function of the tolerance."""
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def run(tol: float) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: jnp.stack(problem.rate(jnp, t, y))),
            diffrax.Tsit5(), 0.0, problem.times[-1], None, jnp.array(problem.x),
            saveat=diffrax.SaveAt(ts=jnp.array(problem.times)),
            stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol * problem.scale),
            max_steps=BUDGET // 6, throw=False,
        )  # fmt: skip

    jitted: Callable[[float], Any] = jax.jit(run)
    return jitted


def by_diffrax(problem: StandardProblem, tol: float) -> Answer:
    """Tsit5 of diffrax: 6 calls per step, accepted or not, and the first call."""
    solved = diffrax_tsit5(problem)(tol)
    calls = 6 * int(solved.stats["num_steps"]) + 1
    if calls > BUDGET:
        raise BudgetError
    states = np.array(solved.ys)
    if not np.isfinite(states).all():
        raise UnsolvedError("stopped early")
    return states, calls


SOLVERS: dict[str, Solver] = {
    "ExponentialAdams": by_dampode(ExponentialAdams),
    "AdaptiveExponential": by_dampode(AdaptiveExponential),
    "KenCarp4": by_dampode(KenCarp4),
    "torchdiffeq dopri5": by_dampode(lambda rtol, atol: TorchDiffEq("dopri5", rtol, atol)),
    "torchdiffeq dopri8": by_dampode(lambda rtol, atol: TorchDiffEq("dopri8", rtol, atol)),
    "torchode tsit5": by_torchode,
    "diffrax Tsit5": by_diffrax,
    "SciPy DOP853": by_scipy("DOP853"),
    "SciPy LSODA": by_scipy("LSODA"),
    "SciPy BDF": by_scipy("BDF"),
    "SciPy Radau": by_scipy("Radau"),
}


def cell(problem: StandardProblem, solver: Solver, tol: float, exact: States) -> dict[str, Any]:
    """Calls and error of one solve, or why it failed."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            states, calls = solver(problem, tol)
        except BudgetError:
            return {"failed": OVER}
        except (UnsolvedError, IntegrationError) as stop:
            return {"failed": str(stop)}
    error = np.max(np.abs(states - exact) / (problem.scale + np.abs(exact)))
    return {"calls": calls, "error": float(error) if np.isfinite(error) else None}


def measure(problem: StandardProblem, exact: States, found: dict[str, dict[str, Any]]) -> None:
    """Fill in the cells of a problem that are missing: solver -> tolerance -> cell."""
    for name, solver in SOLVERS.items():
        cells = found.setdefault(name, {})
        for tol in TOLERANCES:
            key = f"{tol:.0e}"
            if key in cells:
                continue
            over = any(measured.get("failed") == OVER for measured in cells.values())
            try:
                cells[key] = {"failed": OVER} if over else cell(problem, solver, tol, exact)
            except ImportError:
                del found[name]
                break


def versions() -> dict[str, str]:
    """Of the rivals that are installed."""
    found = {}
    for name in ("scipy", "torchode", "diffrax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = list(dict.fromkeys(problem.kind for problem in PROBLEMS))
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds, help="classes of problems")
    chosen = parser.parse_args().kinds
    exact = json.loads((RESULTS / f"{REFERENCES}.json").read_text(encoding="utf-8"))["problems"]
    path = RESULTS / f"{NAME}.json"
    for problem in PROBLEMS:
        if problem.kind not in chosen:
            continue
        results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else {}
        measure(problem, np.array(exact[problem.name]["states"]), results.setdefault(problem.name, {}))
        print(problem.name, {name: cells[min(cells, key=float)] for name, cells in results[problem.name].items()})
        origin = provenance(command(), seed=0)
        origin["versions"].update(versions())
        write(NAME, {
            **origin,
            "results": {known.name: results[known.name] for known in PROBLEMS if known.name in results},
        })  # fmt: skip


if __name__ == "__main__":
    main()
