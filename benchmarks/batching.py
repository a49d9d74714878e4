"""One hard sample among 255 easy ones: a step size per sample against one step size for the batch.

    python -m benchmarks.batching            prints a table, writes results/batching.json and .png
    python -m benchmarks.batching --quick    32 samples; prints only

With a step size per sample, the answers of the easy samples equal those without the hard sample, up to rounding, and
they take as few steps. torchdiffeq's dopri5 has one step size for the batch: every sample takes the steps of the hard
one, which also changes the answers of the others.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import torch
import tyro
from torch import Tensor

from benchmarks.common.problems import counted
from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, TorchDiffEq

TOL = 1e-5
PER_SAMPLE = "a step size per sample"
SHARED = "a shared step size (torchdiffeq dopri5)"


@dataclass(frozen=True)
class Args:
    """What to solve."""

    quick: bool = False
    """32 samples; prints only"""
    seed: int = 0
    """seed of the samples"""


class Drive(VectorField):
    """sin(x) + sin(ω t). Each sample has its own ω: the first component of its state, whose derivative is 0."""

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        omega = x[:, :1]
        wave = torch.sin(x[:, 1:]) + torch.sin(omega * t)
        return torch.cat((torch.zeros_like(omega), wave), 1)


def problem(n: int, seed: int) -> tuple[DampedODEFunc, Tensor, Tensor]:
    """The damped field, n initial states, the first of which is hard, and the times."""
    torch.manual_seed(seed)
    x = torch.randn(n, 9, dtype=torch.float64)
    x[:, 0] = 1.0
    x[0, 0] = 200.0
    lam = torch.ones(9, dtype=torch.float64)
    lam[0] = 0.0
    return DampedODEFunc(Drive(), Constant(lam)), x, torch.linspace(0.0, 5.0, 6, dtype=torch.float64)


def per_sample(func: DampedODEFunc, x: Tensor, t: Tensor) -> dict[str, Any]:
    """Steps and seconds of AdaptiveExponential, and how much the hard sample changes the easy ones."""
    start = time.perf_counter()
    mixed = solve(func, x, t, AdaptiveExponential(TOL, TOL))
    seconds = time.perf_counter() - start
    easy = solve(func, x[1:], t, AdaptiveExponential(TOL, TOL))
    return {
        "easy samples' change by the hard one": (mixed.x[:, 1:] - easy.x).abs().max().item(),
        "accepted steps, hard": int(mixed.accepted[0]),
        "accepted steps, easy, median": float(mixed.accepted[1:].double().median()),
        "accepted steps, easy without the hard one, median": float(easy.accepted.double().median()),
        "seconds": seconds,
        "accepted steps, easy": mixed.accepted[1:].tolist(),
    }


def shared(func: DampedODEFunc, x: Tensor, t: Tensor) -> dict[str, Any]:
    """The same for torchdiffeq's dopri5, with its calls of f."""
    dopri5 = TorchDiffEq("dopri5", rtol=TOL, atol=TOL)
    kept: list[Tensor] = []
    calls, seconds = counted(func, lambda: kept.append(odeint(func, x, t, dopri5)))
    easy_calls, _ = counted(func, lambda: kept.append(odeint(func, x[1:], t, dopri5)))
    mixed, easy = kept
    return {
        "easy samples' change by the hard one": (mixed[:, 1:] - easy).abs().max().item(),
        "calls of f": calls,
        "calls of f, easy without the hard one": easy_calls,
        "seconds": seconds,
    }


def figure(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw the accepted steps of the easy samples and of the hard one."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    steps = results[PER_SAMPLE]
    figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    ax.hist(steps["accepted steps, easy"], bins=20, label="easy samples")
    ax.axvline(steps["accepted steps, hard"], color="k", linestyle="--", label="the hard sample")
    ax.set(xlabel="accepted steps", ylabel="samples", xscale="log")
    ax.legend()
    figure.savefig(RESULTS / "batching.png", dpi=150)
    plt.close(figure)


def main(args: Args) -> None:
    n = 32 if args.quick else 256
    func, x, t = problem(n, args.seed)
    with torch.no_grad():
        results = {PER_SAMPLE: per_sample(func, x, t), SHARED: shared(func, x, t)}
    for name, row in results.items():
        print(f"\n{name}")
        for key, value in row.items():
            if not isinstance(value, list):
                print(f"  {key:52} {value:.3g}")
    if args.quick:
        return
    about = {**provenance(command(), args.seed), "tolerance": TOL, "samples": n, "n": 1}
    write("batching", {**about, "results": results})
    figure(results)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
