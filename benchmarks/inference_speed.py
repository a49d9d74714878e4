"""Inference of In-ResNet-110 on a CPU: eager, folded, channels_last, bf16, compiled.

    python -m benchmarks.inference_speed            prints a table, writes results/inference_speed.json
    python -m benchmarks.inference_speed --quick    a shallow network, three rounds; prints only

All ways run in turn in every round, so that a machine that slows down slows all of them. The table shows medians, the
spread (median absolute deviation) and the ratio to the eager damped network. Logits and classes are compared with those
of the eager network. ResNet-110 has the same convolutions: folded, In-ResNet should take as long. bf16 is faster only
on a CPU that computes in it; the result records its vector instructions. AVX2 emulates bf16, at many times the cost of
fp32.
"""

import os
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TORCHINDUCTOR_FREEZING", "1")  # read when torch is imported

import torch
import tyro
from torch import Tensor, nn

from benchmarks.common import record
from dampode import models
from dampode.models.ablation import frozen, plain

Run = Callable[[], Tensor]
WARM_UP = 2
"""Rounds before the timed ones."""


@dataclass(frozen=True)
class Args:
    """What to measure, and how often."""

    depth: int = 110
    """weighted layers, 6n + 2"""
    width: int = 16
    """channels of the first stage"""
    batch: int = 128
    """images per forward pass"""
    rounds: int = 9
    """timed passes per way"""
    threads: int = torch.get_num_threads()
    """threads of torch"""
    seed: int = 0
    """seed of weights and images"""
    quick: bool = False
    """a shallow network, three rounds; prints only"""


def settle(model: nn.Module, images: Tensor) -> None:
    """Give batch norm the statistics of its inputs, as training would."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(images)
    model.eval()


def eager(model: nn.Module, images: Tensor) -> Run:
    """The model as it is."""
    return lambda: model(images)


def fast(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Run:
    """The model compiled with its weights frozen, in channels_last and the given dtype."""
    network = torch.compile(model.to(dtype).to(memory_format=torch.channels_last))
    batch = images.to(dtype=dtype, memory_format=torch.channels_last)
    return lambda: network(batch)


def ways(depth: int, width: int, images: Tensor) -> dict[str, Run]:
    """Every way to infer, by name; the others are compared with the first."""
    damped = models.in_resnet(depth, width=width)
    settle(damped, images)
    undamped = plain(damped)
    settle(undamped, images)
    return {
        "In-ResNet, eager": eager(damped, images),
        "ResNet, eager": eager(undamped, images),
        "In-ResNet, folded, eager": eager(models.fold(damped), images),
        "In-ResNet, compiled fp32": fast(frozen(damped), images, torch.float32),
        "In-ResNet, folded, compiled fp32": fast(models.fold(damped), images, torch.float32),
        "ResNet, compiled fp32": fast(deepcopy(undamped), images, torch.float32),
        "In-ResNet, folded, compiled bf16": fast(models.fold(damped), images, torch.bfloat16),
        "ResNet, compiled bf16": fast(deepcopy(undamped), images, torch.bfloat16),
    }


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, in turn; `WARM_UP` rounds before them compile."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + WARM_UP):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_ >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rows_of(logits: dict[str, Tensor], seconds: dict[str, list[float]], batch: int) -> list[dict[str, Any]]:
    """One row per way: its times, and how far its logits and classes are from the eager network's."""
    rows = []
    first = next(iter(seconds))
    for name, times in seconds.items():
        median = statistics.median(times)
        reference = logits["ResNet, eager" if name.startswith("ResNet") else first]
        rows.append(
            {
                "way": name,
                "n": len(times),
                "median_s": median,
                "spread_s": statistics.median(abs(t - median) for t in times),
                "ratio": statistics.median(a / b for a, b in zip(seconds[first], times, strict=True)),
                "images_per_s": batch / median,
                "logits_off": ((logits[name] - reference).norm() / reference.norm()).item(),
                "same_class": (logits[name].argmax(1) == reference.argmax(1)).float().mean().item(),
            }
        )
    return rows


def main(args: Args) -> None:
    if args.quick:
        args = replace(args, depth=14, batch=16, rounds=3)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images = torch.rand(args.batch, 3, 32, 32)

    runs = ways(args.depth, args.width, images)
    with torch.inference_mode():
        logits = {name: run().float() for name, run in runs.items()}
        seconds = measure(runs, args.rounds)

    rows = rows_of(logits, seconds, args.batch)
    instructions = torch.backends.cpu.get_cpu_capability()
    print(f"depth {args.depth}, width {args.width}, batch {args.batch}, {args.rounds} rounds")
    print(f"{args.threads} threads, {instructions}")
    print(f"{'':34}{'median ms':>10}{'spread':>8}{'ratio':>8}{'images/s':>10}{'logits off':>12}{'same class':>12}")
    for row in rows:
        print(
            f"{row['way']:34}{1e3 * row['median_s']:10.1f}{1e3 * row['spread_s']:8.1f}{row['ratio']:8.2f}"
            f"{row['images_per_s']:10.0f}{row['logits_off']:12.1e}{row['same_class']:12.1%}"
        )
    if not args.quick:
        settings = {"depth": args.depth, "width": args.width, "batch": args.batch, "instructions": instructions}
        about = {**record.provenance(record.command(), args.seed), "settings": settings}
        print(f"written to {record.write('inference_speed', {**about, 'rows': rows})}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
