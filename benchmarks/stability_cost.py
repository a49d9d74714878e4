"""What the rightmost eigenvalue of a convolutional field costs: matrix-free against the dense Jacobian.

    python -m benchmarks.stability_cost            D = 4,096 and 16,384; writes results/stability_cost.json
    python -m benchmarks.stability_cost --quick    D = 256 and 1,024; prints only

The field is a pre-activation branch (BN, ReLU, conv3x3, twice; 16 channels) in eval mode, float32. The rival is jacrev
and eigvals, at the smaller D only. Every case runs in its own process. The table shows the peak memory of the process
above its start; the result also has the size of the dense matrix. Goals: at least 40 times faster at D = 4,096, below
2 s at D = 16,384 on two cores, and memory that grows with k D and not with D².
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.common.record import command, provenance, write
from dampode.fields import PreActBasic
from dampode.stability import eigenvalues

CHANNELS = 16
Method = Callable[[int, int], float]
"""(side of the image, seed) -> the rightmost real part."""


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small sizes, nothing written"""
    rounds: int = 7
    """runs per matrix-free case"""
    seed: int = 0
    """seed of weights and states"""


def problem(side: int, seed: int) -> tuple[nn.Module, Tensor]:
    """The field and a state."""
    torch.manual_seed(seed)
    return PreActBasic(CHANNELS, CHANNELS).eval(), torch.randn(1, CHANNELS, side, side)


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB


def matrix_free(side: int, seed: int) -> float:
    """The rightmost real part by `eigenvalues`."""
    f, x = problem(side, seed)
    return float(eigenvalues(f, x, k=1)[0].real)


def dense(side: int, seed: int) -> float:
    """The rightmost real part by the dense Jacobian."""
    f, x = problem(side, seed)
    rows = torch.func.jacrev(f, chunk_size=256)(x)
    return float(torch.linalg.eigvals(rows.detach().view(x.numel(), -1)).real.max())


def case(method: Method, side: int, seed: int, rounds: int, threads: int) -> tuple[list[float], float, float]:
    """Seconds of each run of a method, its answer, and its peak memory in MiB above the start of the process."""
    torch.set_num_threads(threads)
    matrix_free(4, seed)  # imports and first calls
    start, value = peak(), float("nan")
    times: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        value = method(side, seed)
        times.append(time.perf_counter() - begin)
    return times, value, peak() - start


def measure(method: Method, side: int, rounds: int, seed: int) -> dict[str, Any]:
    """Run a case in a process of its own, and print its row of the table."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        times, value, memory = pool.apply(case, (method, side, seed, rounds, torch.get_num_threads()))
    d = CHANNELS * side**2
    median, (low, high) = float(np.median(times)), (float(q) for q in np.quantile(times, (0.25, 0.75)))
    print(
        f"| {method.__name__} | {d:,} | {value:.5f} | {median:.3f} s | {low:.3f} to {high:.3f} s | {memory:.0f} MiB |"
    )
    return {
        "method": method.__name__,
        "dimension": d,
        "rightmost": value,
        "n": rounds,
        "median_s": median,
        "spread_s": [low, high],
        "peak_mib_above_start": memory,
        "dense_matrix_mib": 4 * d * d / 2**20,
    }


def main(args: Args) -> None:
    small, large = (4, 8) if args.quick else (16, 32)
    print("| method | D | rightmost Re ν | median | quartiles | peak memory |\n|---|---|---|---|---|---|")
    ours = measure(matrix_free, small, args.rounds, args.seed)
    ours_large = measure(matrix_free, large, args.rounds, args.seed)
    rival = measure(dense, small, 1, args.seed)
    agreement = abs(ours["rightmost"] - rival["rightmost"])
    speedup = rival["median_s"] / ours["median_s"]
    print(f"dense over matrix-free at D = {ours['dimension']:,}: {speedup:.1f} times; they differ by {agreement:.1e}")
    if not args.quick:
        summary = {"speedup": speedup, "agreement": agreement, "rows": [ours, ours_large, rival]}
        print(f"written: {write('stability_cost', {**provenance(command(), args.seed), **summary})}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
