"""What the rightmost eigenvalue of a convolutional field costs: matrix-free against the dense Jacobian.

    python benchmarks/stability_cost.py            D = 4,096 and 16,384; writes results/stability_cost.json
    python benchmarks/stability_cost.py --quick    D = 256 and 1,024; prints only

The field is a pre-activation branch (BN, ReLU, conv3x3, twice; 16 channels) in eval mode, float32. The rival is jacrev
and eigvals, at the smaller D only. Every case runs in a process of its own, whose peak memory above its start is
reported beside the size of the dense matrix. Goals: at least 40 times faster at D = 4,096, below 2 s at D = 16,384 on
two cores, and memory that grows with k D and not with D².
"""

import multiprocessing
import resource
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from benchmarks.common.record import command, provenance, write
from dampode.fields import PreActBasic
from dampode.stability import eigenvalues

CHANNELS = 16


@dataclass(frozen=True)
class Args:
    """How much to measure."""

    quick: bool = False
    """small sizes, nothing written"""
    rounds: int = 7
    """runs of a matrix-free case"""
    seed: int = 0
    """seed of weights and states"""


def problem(side, seed):
    torch.manual_seed(seed)
    return PreActBasic(CHANNELS, CHANNELS).eval(), torch.randn(1, CHANNELS, side, side)


def peak():
    """Peak resident memory of this process in MiB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def matrix_free(side, seed):
    f, x = problem(side, seed)
    return eigenvalues(f, x, k=1)[0].real.item()


def dense(side, seed):
    f, x = problem(side, seed)
    rows = torch.func.jacrev(f, chunk_size=256)(x)
    return torch.linalg.eigvals(rows.detach().view(x.numel(), -1)).real.max().item()


def case(method, side, seed, rounds, threads):
    """Times of a method, its answer, and the memory it took above the process's start."""
    torch.set_num_threads(threads)
    matrix_free(4, seed)  # imports and first calls
    start, times, value = peak(), [], float("nan")
    for _ in range(rounds):
        begin = time.perf_counter()
        value = method(side, seed)
        times.append(time.perf_counter() - begin)
    return times, value, peak() - start


def main(args: Args) -> None:
    sides = (4, 8) if args.quick else (16, 32)
    threads = torch.get_num_threads()
    cases = [(matrix_free, sides[0], args.rounds), (matrix_free, sides[1], args.rounds), (dense, sides[0], 1)]

    rows = []
    print("| method | D | rightmost Re ν | median | quartiles | peak memory |\n|---|---|---|---|---|---|")
    for method, side, rounds in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            times, value, memory = pool.apply(case, (method, side, args.seed, rounds, threads))
        d = CHANNELS * side**2
        row = {
            "method": method.__name__,
            "dimension": d,
            "rightmost": value,
            "n": rounds,
            "median_s": float(np.median(times)),
            "spread_s": [float(q) for q in np.quantile(times, (0.25, 0.75))],
            "peak_mib_above_start": memory,
            "dense_matrix_mib": 4 * d * d / 2**20,
        }
        rows.append(row)
        low, high = row["spread_s"]
        print(
            f"| {method.__name__} | {d:,} | {value:.5f} | {row['median_s']:.3f} s | {low:.3f} to {high:.3f} s "
            f"| {memory:.0f} MiB |"
        )
    agreement = abs(rows[0]["rightmost"] - rows[2]["rightmost"])
    speedup = rows[2]["median_s"] / rows[0]["median_s"]
    print(
        f"dense over matrix-free at D = {rows[0]['dimension']:,}: {speedup:.1f} times; they differ by {agreement:.1e}"
    )
    if not args.quick:
        summary = {"speedup": speedup, "agreement": agreement, "rows": rows}
        print(f"written: {write('stability_cost', {**provenance(command(), args.seed), **summary})}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
