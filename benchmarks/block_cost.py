"""What damping costs: a damped block against the same residual block written by hand, forward and backward, eager.

    python -m benchmarks.block_cost            prints a table, writes results/block_cost.json

All blocks share one branch: BN, ReLU, conv3x3, BN, ReLU, conv3x3, with 16 channels, 32x32 images and batch 128. Every
round times all blocks once, in a new random order. The cost is the ratio to the hand-written block in the same round:
its median over the rounds, and an upper 95% bound of this median by bootstrap. Goals: the bound is below 1.05 at ρ = 1
and below 1.10 at ρ = 1 + λ.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import clock, command, provenance, write
from dampode import DampedBlock
from dampode.damping import Constant, Learned
from dampode.fields import PreActBasic
from dampode.weighting import one_plus

REFERENCE = "by hand: x + f(x)"
WARM_UP = 5
"""Rounds before the timed ones."""


@dataclass(frozen=True)
class Args:
    """How often and where to measure."""

    rounds: int = 200
    """passes per block"""
    seed: int = 0
    """seed of weights, images, orders and bootstrap"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


class ByHand(nn.Module):
    """x + f(x), as anybody would write it."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        fx: Tensor = self.f(x)
        return x + fx


def seconds(block: nn.Module, x: Tensor, device: str) -> float:
    """Seconds of one forward and backward pass."""
    block.zero_grad()
    start = clock(device)
    block(x).sum().backward()
    return clock(device) - start


def blocks() -> dict[str, nn.Module]:
    """Every block on one shared branch, by name; the first is the reference."""
    f = PreActBasic(16, 16)
    return {
        REFERENCE: ByHand(f),
        "by hand again (noise)": ByHand(f),
        "λ = 0 (resnet)": DampedBlock(f, Constant(0.0)),
        "λ learned, ρ = 1 (in_resnet)": DampedBlock(f, Learned()),
        "λ learned, ρ = 1 + λ (lambda_in_resnet)": DampedBlock(f, Learned(), one_plus),
    }


def main(args: Args) -> None:
    torch.manual_seed(args.seed)
    order, bootstrap = random.Random(args.seed), np.random.default_rng(args.seed)
    measured = {name: block.to(args.device) for name, block in blocks().items()}
    x = torch.randn(128, 16, 32, 32, device=args.device, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in measured}
    for turn in range(args.rounds + WARM_UP):
        for name in order.sample(list(measured), len(measured)):
            taken = seconds(measured[name], x, args.device)
            if turn >= WARM_UP:
                times[name].append(taken)

    rows = []
    print(f"| block | ratio to by hand | upper 95% bound | n = {args.rounds} |\n|---|---|---|---|")
    for name, of_block in times.items():
        ratios = np.array(of_block) / np.array(times[REFERENCE])
        draws = np.median(bootstrap.choice(ratios, (4000, len(ratios))), axis=1)
        ratio, upper, ms = float(np.median(ratios)), float(np.quantile(draws, 0.95)), float(1e3 * np.median(of_block))
        quartiles = [float(q) for q in np.quantile(ratios, (0.25, 0.75))]
        rows.append({"block": name, "ratio": ratio, "upper_95": upper, "spread": quartiles, "median_ms": ms})
        print(f"| {name} | {ratio:.3f} | {upper:.3f} | {ms:.1f} ms |")
    path = write("block_cost", {**provenance(command(), args.seed), "n": args.rounds, "rows": rows})
    print(f"written: {path}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
