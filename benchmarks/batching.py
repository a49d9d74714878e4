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

from benchmarks.common.palette import style
from benchmarks.common.problems import counted
from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, TorchDiffEq

TOL = 1e-5
PER_SAMPLE = "a step size per sample"
SHARED = "a shared step size (torchdiffeq dopri5)"
CALLS_PER_STEP = 6
"""Of dopri5, whose last stage is the first one of the next step."""


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
    """Draw the steps that the easy samples take with each way, and those of the hard sample."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    ours, theirs = results[PER_SAMPLE], results[SHARED]
    figure, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    steps = ours["accepted steps, easy"]
    color, other = style("AdaptiveExponential").color, style("torchdiffeq dopri5").color
    ax.hist(steps, bins=range(min(steps), max(steps) + 2), color=color)
    ax.axvline(ours["accepted steps, hard"], color=color, linestyle="--")
    shared = theirs["calls of f"] / CALLS_PER_STEP
    ax.bar(shared, len(steps), width=0.06 * shared, color=other)
    labels = (
        (max(steps), 0.62, "AdaptiveExponential:\neach easy sample\ntakes its own steps", color, "left"),
        (ours["accepted steps, hard"], 0.62, "AdaptiveExponential:\nthe hard sample alone", color, "left"),
        (shared, 0.93, "torchdiffeq dopri5: all easy\nsamples take the hard one\u2019s steps", other, "right"),
    )
    for x, y, text, of_text, side in labels:
        shift = 1.08 if side == "left" else 0.92
        place = ax.get_xaxis_transform()
        ax.text(x * shift, y, text, color=of_text, ha=side, va="top", transform=place, fontsize="small")
    ax.set(xlabel="steps per sample", ylabel="easy samples", xscale="log", xlim=(20, 4000))
    ax.set_title(f"One hard sample among {len(steps)} easy ones")
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
