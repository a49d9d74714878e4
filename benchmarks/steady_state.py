"""Calls of f, seconds and residuals that an equilibrium costs: SteadyState and its rivals on the same fields.

    python -m benchmarks.steady_state           minutes
    python -m benchmarks.steady_state --quick   small batches, no seconds; prints only

The equation is x = f(x), λ = ρ = 1. torchdeq is version 0.1.0 from PyPI (pip install --no-deps torchdeq).

- Equal residual: every solver runs until |f(x) − x| <= tol |f(x)| in every sample, as measured here with one more call.
  torchdeq's Anderson method and Broyden method stop there by their own rule, at their defaults otherwise.
- Calls: counted on the whole batch, which f always sees. SciPy solves one sample, and its calls are those of the first.
- Long integration: AdaptiveExponential until t = 60; its tolerance is that of the equilibrium.
- A solver that does not reach the residual in 300 calls has no number.
"""

import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.optimize
import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import command, provenance, write
from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.integrators import AdaptiveExponential, SteadyState

MOST_CALLS = 300
TOLERANCES = {"float32": (1e-3, 1e-4, 1e-5), "float64": (1e-4, 1e-6, 1e-8)}


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small batches, no seconds; prints only"""
    rounds: int = 3
    """timed runs of every solver; 0 measures calls only"""
    scipy: bool = True
    """whether to run SciPy's root finders, on one sample"""
    seed: int = 0
    """seed of fields"""


class Convolutional(nn.Module):
    """gain · relu(conv(relu(conv x)) + u) on images of 8 channels."""

    def __init__(self, size: int, gain: float, batch: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.gain = gain
        self.u = nn.Parameter(torch.randn(batch, 8, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        value: Tensor = self.gain * torch.relu(self.second(torch.relu(self.first(x))) + self.u[: len(x)])
        return value


class MLP(nn.Module):
    """tanh(W x + u), W random with a spectral radius near ``radius``."""

    def __init__(self, radius: float, batch: int) -> None:
        super().__init__()
        self.w = nn.Parameter(radius * torch.randn(64, 64) / 8)
        self.u = nn.Parameter(torch.randn(batch, 64))

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        return torch.tanh(x @ self.w.T + self.u[: len(x)])


class Counted:
    """f, with the number of its calls."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        self.calls += 1
        return self.f(x)


def fields(quick: bool) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """The fields and the shapes of their states."""
    many, few = (8, 2) if quick else (64, 8)
    return {
        "MLP, d = 64, radius 0.5": (MLP(0.5, many), (many, 64)),
        "MLP, d = 64, radius 0.9": (MLP(0.9, many), (many, 64)),
        "convolutions, 8 x 8": (Convolutional(8, 3.0, 2 * few), (2 * few, 8, 8, 8)),
        "convolutions, 32 x 32": (Convolutional(32, 3.0, few), (few, 8, 32, 32)),
    }


def residual(f: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """The largest |f(x) − x| / |f(x)|."""
    fx = f(x).flatten(1)
    return float(((fx - x.flatten(1)).norm(dim=1) / fx.norm(dim=1)).max())


def solvers() -> dict[str, Callable[[Callable[[Tensor], Tensor], Tensor, float], Tensor]]:
    """Every solver by name: (f, start, tolerance) -> x."""
    rival: Any = importlib.import_module("torchdeq.solver")

    def ours(f: Callable[[Tensor], Tensor], x: Tensor, tol: float) -> Tensor:
        search = SteadyState(rtol=tol / 1.1, atol=1e-14, max_calls=MOST_CALLS)
        return search.equilibria(DampedODEFunc(f, Constant(1.0)), x).x

    def torchdeq(name: str) -> Callable[[Callable[[Tensor], Tensor], Tensor, float], Tensor]:
        def solve(f: Callable[[Tensor], Tensor], x: Tensor, tol: float) -> Tensor:
            solver = rival.get_solver(name)
            found: Tensor = solver(f, x, max_iter=MOST_CALLS, tol=tol, stop_mode="rel")[0]
            return found

        return solve

    def integrated(f: Callable[[Tensor], Tensor], x: Tensor, tol: float) -> Tensor:
        t = torch.tensor([0.0, 60.0])
        return odeint(DampedODEFunc(f, Constant(1.0)), x, t, AdaptiveExponential(rtol=tol, atol=tol))[-1]

    return {
        "SteadyState": ours,
        "torchdeq anderson": torchdeq("anderson"),
        "torchdeq broyden": torchdeq("broyden"),
        "torchdeq fixed_point_iter": torchdeq("fixed_point_iter"),
        "AdaptiveExponential to t = 60": integrated,
    }


def scipy_calls(f: nn.Module, shape: tuple[int, ...], tol: float) -> dict[str, int | None]:
    """Calls of SciPy's matrix-free root finders for the first sample, to the same relative residual."""
    calls: dict[str, int | None] = {}
    for method in ("anderson", "krylov", "df-sane"):
        counted = Counted(f)

        def fun(v: Any, counted: Counted = counted) -> Any:
            x = torch.from_numpy(v).to(torch.float64).view(1, *shape[1:])
            return (counted(x) - x).view(-1).numpy()

        reached = tol * float(f(torch.zeros(1, *shape[1:], dtype=torch.float64)).norm())
        if method == "df-sane":
            options: dict[str, Any] = {"fatol": reached, "maxfev": MOST_CALLS}
        else:
            options = {"fatol": reached, "maxiter": 100, "tol_norm": lambda v: float((v**2).sum() ** 0.5)}
        start = torch.zeros(shape[1:], dtype=torch.float64).view(-1).numpy()
        try:
            found = scipy.optimize.root(fun, start, method=method, options=options)
            calls[method] = counted.calls if found.success else None
        except (RuntimeError, ValueError, OverflowError):
            calls[method] = None
    return calls


def measure(args: Args) -> list[dict[str, Any]]:
    """One row per field, dtype, tolerance and solver."""
    rows: list[dict[str, Any]] = []
    for dtype, tolerances in TOLERANCES.items():
        kind = getattr(torch, dtype)
        torch.manual_seed(args.seed)  # the same fields in both dtypes
        for name, (f, shape) in fields(args.quick).items():
            f = f.to(kind)
            for tol in tolerances:
                for solver, solve in solvers().items():
                    counted = Counted(f)
                    x = solve(counted, torch.zeros(shape, dtype=kind), tol)
                    reached = residual(f, x)
                    ok = reached <= 1.01 * tol and counted.calls <= MOST_CALLS + 1
                    seconds = []
                    for _ in range(0 if args.quick else args.rounds):
                        begin = time.perf_counter()
                        solve(f, torch.zeros(shape, dtype=kind), tol)
                        seconds.append(time.perf_counter() - begin)
                    rows.append(
                        {
                            "field": name,
                            "dtype": dtype,
                            "tolerance": tol,
                            "solver": solver,
                            "calls": counted.calls if ok else None,
                            "residual": reached,
                            "seconds": statistics.median(seconds) if seconds else None,
                        }
                    )
                    print(f"{name:25} {dtype} {tol:.0e} {solver:30} {rows[-1]['calls']} {reached:.1e}", flush=True)
                if dtype == "float64" and args.scipy:
                    for method, calls in scipy_calls(f, shape, tol).items():
                        rows.append(
                            {
                                "field": name,
                                "dtype": dtype,
                                "tolerance": tol,
                                "solver": f"SciPy {method}",
                                "calls": calls,
                            }
                        )
                        print(f"{name:25} {dtype} {tol:.0e} SciPy {method:24} {calls}", flush=True)
    return rows


def main(args: Args) -> None:
    """Measure, print and record."""
    with torch.no_grad():
        rows = measure(args)
    ours = {(r["field"], r["dtype"], r["tolerance"]): r["calls"] for r in rows if r["solver"] == "SteadyState"}
    ratios = {
        f"{r['field']}, {r['dtype']}, {r['tolerance']:.0e}": r["calls"] / ours[r["field"], r["dtype"], r["tolerance"]]
        for r in rows
        if r["solver"] == "torchdeq anderson" and r["calls"] and ours[r["field"], r["dtype"], r["tolerance"]]
    }
    for name, ratio in ratios.items():
        print(f"{name:50} torchdeq's Anderson takes {ratio:.2f} times the calls")
    if not args.quick:
        print(write("steady_state", {**provenance(command(), args.seed), "rows": rows, "ratios": ratios}))


if __name__ == "__main__":
    main(tyro.cli(Args))
