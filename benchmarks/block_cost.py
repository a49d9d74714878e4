"""What damping costs: a damped block against the same residual block written by hand, forward and backward, eager.

    python benchmarks/block_cost.py            prints a table, writes results/block_cost.json

Every round times all blocks once, in a new random order, on one branch (BN, ReLU, conv3x3, BN, ReLU, conv3x3; 16
channels, 32x32, batch 128). The cost is the ratio to the hand-written block in the same round: its median, and an
upper 95% bound of that median by bootstrap. Goals: bound below 1.05 at ρ = 1 and below 1.10 at ρ = 1 + λ.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import nn

from benchmarks.common.record import clock, command, provenance, write
from dampode import DampedBlock
from dampode.damping import Constant, Learned
from dampode.fields import PreActBasic
from dampode.weighting import one_plus


@dataclass(frozen=True)
class Args:
    """How often and where to measure."""

    rounds: int = 200
    """passes of every block"""
    seed: int = 0
    """seed of weights, images, orders and bootstrap"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


class ByHand(nn.Module):
    """x + f(x), as anybody would write it."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return x + self.f(x)


def seconds(block, x, device):
    """One forward and backward pass."""
    block.zero_grad()
    start = clock(device)
    block(x).sum().backward()
    return clock(device) - start


def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    order, bootstrap = random.Random(args.seed), np.random.default_rng(args.seed)

    f = PreActBasic(16, 16)
    blocks = {
        "by hand: x + f(x)": ByHand(f),
        "by hand again (noise)": ByHand(f),
        "λ = 0 (resnet)": DampedBlock(f, Constant(0.0)),
        "λ learned, ρ = 1 (in_resnet)": DampedBlock(f, Learned()),
        "λ learned, ρ = 1 + λ (lambda_in_resnet)": DampedBlock(f, Learned(), one_plus),
    }
    blocks = {name: block.to(args.device) for name, block in blocks.items()}
    x = torch.randn(128, 16, 32, 32, device=args.device, requires_grad=True)
    times = {name: [] for name in blocks}
    for turn in range(args.rounds + 5):
        for name in order.sample(list(blocks), len(blocks)):
            taken = seconds(blocks[name], x, args.device)
            if turn >= 5:  # the first rounds warm up
                times[name].append(taken)

    reference = np.array(times["by hand: x + f(x)"])
    rows = []
    print(f"| block | ratio to by hand | upper 95% bound | n = {args.rounds} |\n|---|---|---|---|")
    for name, taken in times.items():
        ratios = np.array(taken) / reference
        draws = np.median(bootstrap.choice(ratios, (4000, len(ratios))), axis=1)
        row = {
            "block": name,
            "ratio": float(np.median(ratios)),
            "upper_95": float(np.quantile(draws, 0.95)),
            "spread": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
            "median_ms": float(1e3 * np.median(taken)),
        }
        rows.append(row)
        print(f"| {name} | {row['ratio']:.3f} | {row['upper_95']:.3f} | {row['median_ms']:.1f} ms |")
    path = write("block_cost", {**provenance(command(), args.seed), "n": args.rounds, "rows": rows})
    print(f"written: {path}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
