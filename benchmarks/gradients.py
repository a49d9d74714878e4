"""What gradients cost and how accurate they are: steps kept, steps recomputed, and torchdiffeq's continuous adjoint.

    python -m benchmarks.gradients          about ten minutes on two quiet cores
    python -m benchmarks.gradients --quick  half a minute, small sizes; prints only

The loss is the sum of |x(1)|². Gradients are with respect to x0, λ and the parameters of f, in float64.

- Memory and time at N = 100 and 1000 steps of Krogstad4, with every step kept and with √N checkpoints, and of the
  adaptive solve with and without checkpoints. Peak bytes are those of all tensor storages that the forward and backward
  pass make, counted as each is made and freed, as the allocator of a device would count them.
- The relative error of each gradient against a solve at tolerance 1e-10 that keeps its steps: for our ways, and for the
  adjoint over dopri5. The adjoint is torchdiffeq's own odeint_adjoint, because `TorchDiffEq(adjoint=True)` would refuse
  the worst cases.
"""

import gc
import math
import random
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import torch
import torchdiffeq
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common.palette import style
from benchmarks.common.problems import ForcedMLP
from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedODEFunc
from dampode.damping import Learned
from dampode.integrators import AdaptiveExponential, Integrator, Krogstad4

LAMS = (1.0, 10.0, 100.0, 1000.0)
Run = Callable[[DampedODEFunc, Tensor], Tensor]
"""(func, x(0)) -> x(1)."""
Rows = dict[str, dict[str, Any]]
"""Way to get gradients -> its numbers."""


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small sizes, nothing written"""
    batch: int = 256
    """samples in the first table; the second has 8"""
    d: int = 64
    """numbers per sample"""
    steps: tuple[int, ...] = (100, 1000)
    """steps of the fixed-step solves; the second table uses the first value"""
    rounds: int = 5
    """timed passes per way"""
    seed: int = 0
    """seed of weights, states and orders"""


def adjoint(func: DampedODEFunc, x: Tensor) -> Tensor:
    """x(1) by dopri5, with gradients by the continuous adjoint."""
    settings = {"rtol": 1e-6, "atol": 1e-8, "method": "dopri5"}
    xs: Tensor = torchdiffeq.odeint_adjoint(func, x, torch.tensor([0.0, 1.0], dtype=x.dtype), **settings)
    return xs[-1]


def runs(steps: int) -> dict[str, Run]:
    """Every way to get gradients, by name."""
    root = math.isqrt(steps)
    named = {
        "kept": Krogstad4(steps),
        "checkpoints": Krogstad4(steps, recompute=root),
        "adaptive, kept": AdaptiveExponential(1e-6, 1e-9),
        "adaptive, checkpoints": AdaptiveExponential(1e-6, 1e-9, recompute=8),
    }
    return {name: over_unit_time(integrator) for name, integrator in named.items()} | {"adjoint": adjoint}


def over_unit_time(integrator: Integrator) -> Run:
    """x(0) -> x(1) by an integrator."""
    return lambda func, x: integrator(func, x, 0.0, 1.0)


def problem(lam: float, batch: int, d: int, seed: int) -> tuple[DampedODEFunc, Tensor]:
    """The MLP field with one trained λ per channel, ρ = 1."""
    torch.manual_seed(seed)
    func = DampedODEFunc(ForcedMLP(d, d).double(), Learned(lam, lam, shape=(d,)).double())
    return func, torch.randn(batch, d, dtype=torch.float64)


def gradients(run: Run, func: DampedODEFunc, x: Tensor) -> dict[str, Tensor]:
    """The gradients of |x(1)|² with respect to x0, λ, and the parameters of f as one vector."""
    x = x.clone().requires_grad_()
    inputs = [x, *func.damping.parameters(), *func.f.parameters()]
    func.zero_grad()
    run(func, x).square().sum().backward()
    of_x, of_lam, *of_f = (given.grad.clone() for given in inputs if given.grad is not None)
    return {"x0": of_x, "λ": of_lam, "f": torch.cat([grad.flatten() for grad in of_f])}


class StorageBytes(TorchDispatchMode):
    """Counts the bytes of all tensor storages that exist, now and at the peak, as the allocator of a device would."""

    now: int
    peak: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def peak_bytes(run: Run, func: DampedODEFunc, x: Tensor) -> int:
    """Peak bytes of the storages that a forward and a backward pass make."""
    gc.collect()
    storages = StorageBytes()
    with storages:
        gradients(run, func, x)
    return storages.peak


def seconds(run: Run, func: DampedODEFunc, x: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    start = time.perf_counter()
    gradients(run, func, x)
    return time.perf_counter() - start


def relative(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    """|g − g*| / |g*| of each gradient; 0 if both underflow to 0, inf if g is not finite."""
    smallest = torch.finfo(torch.float64).tiny
    errors = {k: (got[k] - want[k]).norm() / want[k].norm().clamp(min=smallest) for k in want}
    return {k: error.nan_to_num(torch.inf, torch.inf).item() for k, error in errors.items()}


def cost(steps: int, args: Args, order: random.Random) -> Rows:
    """Memory and seconds at λ = 10; for checkpoints also the difference to the gradients with all steps kept."""
    func, x = problem(10.0, args.batch, args.d, args.seed)
    named = runs(steps)
    rows: Rows = {name: {"peak bytes": peak_bytes(run, func, x)} for name, run in named.items()}
    for name in ("", "adaptive, "):
        saved, kept = f"{name}checkpoints", f"{name}kept"
        pair = [gradients(named[k], func, x) for k in (saved, kept)]
        rows[saved]["difference to kept"] = max(relative(*pair).values())
    timings: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(args.rounds):  # every way has run before, so it is warm
        for name in order.sample(sorted(named), len(named)):
            timings[name].append(seconds(named[name], func, x))
    for name, found in timings.items():
        rows[name] |= {"s": statistics.median(found), "s, spread": [min(found), max(found)], "s, n": len(found)}
    return rows


def errors(lam: float, args: Args) -> Rows:
    """Relative errors of the gradients of every way; a way that fails has its error message."""
    func, x = problem(lam, 8, args.d, args.seed)
    want = gradients(over_unit_time(AdaptiveExponential(1e-10, 1e-13)), func, x)
    rows: Rows = {}
    for name, run in runs(args.steps[0]).items():
        try:
            rows[name] = relative(gradients(run, func, x), want)
        except AssertionError as error:
            rows[name] = {"failed": str(error).split(":")[0]}
    return rows


def table(title: str, rows: Rows) -> None:
    """Print one table."""
    print(f"\n{title}")
    for name, row in rows.items():
        cells = ", ".join(f"{k} {v:.3g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in row.items())
        print(f"  {name:24}{cells}", flush=True)


def figure(found: dict[str, Rows]) -> None:
    """Draw the errors of the gradients against λ."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    labels = {
        "kept": ("Krogstad4", "Krogstad4, backpropagated"),
        "adaptive, checkpoints": ("AdaptiveExponential", "AdaptiveExponential, checkpoints"),
        "adjoint": ("torchdiffeq dopri5", "torchdiffeq dopri5, continuous adjoint"),
    }
    upright: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 9}
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharey=True)
    for ax, kind in zip(axes, ("x0", "λ", "f"), strict=True):
        ax.set(
            xlabel="damping λ",
            title=f"with respect to {kind}",
            xlim=(0.7, 2e3),
            ylim=(2e-11, 1e2),
            xscale="log",
            yscale="log",
        )
        for name, (solver, label) in labels.items():
            points = [(float(lam), rows[name].get(kind, math.inf)) for lam, rows in found.items()]
            drawn = [(lam, e) for lam, e in points if 0 < e < math.inf]
            ax.plot(*zip(*drawn, strict=True), **style(solver)._asdict(), label=label)
            for lam in (lam for lam, e in points if e == math.inf):
                ax.text(lam, 1e-3, "no gradient", color=style(solver).color, **upright)
            for lam in (lam for lam, e in points if e == 0 and name == "kept"):
                ax.text(lam, 1e-8, "0 by underflow", color="0.4", **upright)
        ax.axhline(1.0, color="0.6", lw=0.8)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("relative error")
    figure.suptitle("Relative error of gradients; above the line at 1 no digit is right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(RESULTS / "gradients.png", dpi=150)
    plt.close(figure)


def main(args: Args) -> None:
    if not args.steps:
        raise SystemExit("error: --steps needs at least one value")
    if args.quick:
        args = replace(args, batch=4, d=4, steps=(20,), rounds=1)
    order = random.Random(args.seed)
    costs = {str(n): cost(n, args, order) for n in args.steps}
    for n, rows in costs.items():
        table(f"{n} steps, λ = 10, batch {args.batch}, d = {args.d}", rows)
    found = {f"{lam:g}": errors(lam, args) for lam in (LAMS[:1] if args.quick else LAMS)}
    for lam, rows in found.items():
        table(f"relative gradient error, λ = {lam}, {args.steps[0]} steps where fixed", rows)
    if args.quick:
        return
    payload = {
        "unit": "seconds, median over rounds; bytes of live tensor storages at the peak",
        "cost": costs,
        "errors": found,
    }
    write("gradients", {**provenance(command(), args.seed), "rounds": args.rounds, **payload})
    figure(found)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
