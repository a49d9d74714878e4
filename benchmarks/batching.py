"""One hard sample among 255 easy ones: a step size per sample against one that the batch shares.

    python benchmarks/batching.py            prints a table, writes results/batching.json and .png
    python benchmarks/batching.py --quick

With steps of their own the easy samples' answers equal those they get without the hard one, to rounding, and they take
as few steps. torchdiffeq's dopri5 shares its step: the hard sample's steps are everybody's, and moves their answers.
"""

import time
from dataclasses import dataclass

import matplotlib as mpl
import torch
import tyro

from benchmarks.common.problems import counted
from benchmarks.common.record import RESULTS, command, provenance, write
from dampode import DampedODEFunc, odeint, solve
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, TorchDiffEq

TOL = 1e-5


@dataclass(frozen=True)
class Args:
    """What to solve."""

    quick: bool = False
    """32 samples; prints only"""
    seed: int = 0
    """seed of the samples"""


class Drive(VectorField):
    """sin(x) + sin(ω t), ω a sample's own: the first component of the state, whose derivative is 0."""

    def forward(self, t, x):
        omega = x[:, :1]
        wave = torch.sin(x[:, 1:]) + torch.sin(omega * t)
        return torch.cat((torch.zeros_like(omega), wave), 1)


def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    n = 32 if args.quick else 256
    x = torch.randn(n, 9, dtype=torch.float64)
    x[:, 0] = 1.0
    x[0, 0] = 200.0
    lam = torch.ones(9, dtype=torch.float64)
    lam[0] = 0.0
    func = DampedODEFunc(Drive(), Constant(lam))
    t = torch.linspace(0.0, 5.0, 6, dtype=torch.float64)

    with torch.no_grad():
        start = time.perf_counter()
        mixed = solve(func, x, t, AdaptiveExponential(TOL, TOL))
        seconds = time.perf_counter() - start
        easy = solve(func, x[1:], t, AdaptiveExponential(TOL, TOL))
        kept: list[torch.Tensor] = []
        calls, shared_seconds = counted(
            func, lambda: kept.append(odeint(func, x, t, TorchDiffEq("dopri5", rtol=TOL, atol=TOL)))
        )
        shared_easy = odeint(func, x[1:], t, TorchDiffEq("dopri5", rtol=TOL, atol=TOL))
        easy_calls, _ = counted(func, lambda: odeint(func, x[1:], t, TorchDiffEq("dopri5", rtol=TOL, atol=TOL)))
    results = {
        "a step size per sample": {
            "easy samples' change by the hard one": (mixed.x[:, 1:] - easy.x).abs().max().item(),
            "accepted steps, hard": int(mixed.accepted[0]),
            "accepted steps, easy, median": float(mixed.accepted[1:].double().median()),
            "accepted steps, easy without the hard one, median": float(easy.accepted.double().median()),
            "seconds": seconds,
        },
        "a shared step size (torchdiffeq dopri5)": {
            "easy samples' change by the hard one": (kept[0][:, 1:] - shared_easy).abs().max().item(),
            "calls of f": calls,
            "calls of f, easy without the hard one": easy_calls,
            "seconds": shared_seconds,
        },
    }
    for name, row in results.items():
        print(f"\n{name}")
        for key, value in row.items():
            print(f"  {key:52} {value:.3g}")
    if args.quick:
        return
    about = {**provenance(command(), args.seed), "tolerance": TOL, "samples": n, "n": 1}
    write("batching", {**about, "results": results})

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(6, 3), layout="constrained")
    ax.hist(mixed.accepted[1:].tolist(), bins=20, label="easy samples")
    ax.axvline(int(mixed.accepted[0]), color="k", linestyle="--", label="the hard sample")
    ax.set(xlabel="accepted steps", ylabel="samples", xscale="log")
    ax.legend()
    plt.savefig(RESULTS / "batching.png", dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
