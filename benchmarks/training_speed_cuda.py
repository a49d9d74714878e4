"""The part of benchmarks.training_speed for CUDA devices: epochs, the profile, several networks at once."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dampode import models
from dampode.data import Augmentation, ImageData
from dampode.training import Execution, Recipe, fit
from dampode.training.processes import processes
from dampode.training.run import Run

FAST = Execution("bf16", "blocks", channels_last=True, step_graph=True)


def images(n: int) -> ImageData:
    """Random images of CIFAR's size, on the device."""
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, device="cuda")
    y = torch.arange(n, device="cuda") % 10
    return ImageData("random", x, y, x[:1], y[:1], 10, Augmentation())


def epoch_seconds(depth: int, width: int, batch: int) -> dict[str, list[float]]:
    """Seconds per epoch of 50,000 images with `fit`; the first epochs compile and record."""
    found = {}
    for name in ("resnet", "in_resnet"):
        torch.manual_seed(0)
        network = getattr(models, name)(depth, width=width).cuda()
        found[name] = fit(
            network, images(50_000), Recipe(epochs=8, batch_size=batch), execution=FAST, label=name
        ).seconds
    return found


def endless(run: Run) -> Iterator[Tensor]:
    """Steps without end."""
    while True:
        yield from run.steps()


def in_resnet_run(depth: int, width: int, batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Steps of In-ResNet, already recorded."""
    torch.manual_seed(seed)
    network = models.in_resnet(depth, width=width).cuda().to(memory_format=torch.channels_last)
    data = images(8 * batch)
    run = Run(network, data, Recipe(batch_size=batch), FAST, seed, torch.channels_last, processes(data.x_train.device))
    steps = endless(run)
    for _ in range(5):
        next(steps)
    torch.cuda.synchronize()
    return steps


def profile_table(depth: int, width: int, batch: int, count: int = 20) -> dict[str, Any]:
    """The kernels that take the most time on the device, over ``count`` steps of In-ResNet."""
    steps = in_resnet_run(depth, width, batch)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(count):
            next(steps)
        torch.cuda.synchronize()
    kernels = sorted(profiler.key_averages(), key=lambda k: k.self_device_time_total, reverse=True)
    total = sum(k.self_device_time_total for k in kernels)
    rows = [
        {
            "kernel": k.key[:100],
            "share": k.self_device_time_total / total,
            "calls_a_step": k.count / count,
            "us_a_call": k.self_device_time_total / k.count,
        }
        for k in kernels[:20]
    ]
    return {
        "kernels_a_step": sum(k.count for k in kernels) / count,
        "device_ms_a_step": total / count / 1e3,
        "rows": rows,
    }


def several_at_once(depth: int, width: int, batch: int) -> dict[int, float]:
    """Images per second of k In-ResNets together, each in its own process; they overlap if MPS runs."""
    found, context = {}, multiprocessing.get_context("spawn")
    for k in (1, 2, 4, 8):
        barrier, rates = context.Barrier(k), context.SimpleQueue()
        workers = [context.Process(target=_one_of, args=(depth, width, batch, n, barrier, rates)) for n in range(k)]
        for worker in workers:
            worker.start()
        found[k] = sum(rates.get() for _ in workers)
        for worker in workers:
            worker.join()
    return found


def _one_of(
    depth: int, width: int, batch: int, seed: int, barrier: Barrier, rates: "SimpleQueue[float]", count: int = 150
) -> None:
    """One process of `several_at_once`."""
    steps = in_resnet_run(depth, width, batch, seed)
    barrier.wait()
    for _ in range(20):
        next(steps)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    torch.cuda.synchronize()
    rates.put(count * batch / (time.perf_counter() - start))


def measure(depth: int, width: int, batch: int) -> dict[str, Any]:
    """All three, as JSON values."""
    return {
        "epoch_s": epoch_seconds(depth, width, batch),
        "profile": profile_table(depth, width, batch),
        "images_per_s_of_k_processes": several_at_once(depth, width, batch),
    }


def text(found: dict[str, Any]) -> str:
    """The same as text."""
    epochs = {name: round(statistics.median(seconds[-3:]), 3) for name, seconds in found["epoch_s"].items()}
    profiled = found["profile"]
    lines = [
        f"seconds per epoch, bf16, blocks compiled, steps recorded: {epochs}",
        f"{profiled['kernels_a_step']:.0f} kernels and {profiled['device_ms_a_step']:.2f} ms of the device per step",
        "",
        "| kernel | share | calls per step | µs per call |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['kernel']} | {row['share']:.1%} | {row['calls_a_step']:.1f} | {row['us_a_call']:.1f} |"
        for row in profiled["rows"]
    ]
    several = found["images_per_s_of_k_processes"]
    lines += [
        "",
        *(f"{k} processes at once: {rate:.0f} images/s, {rate / several[1]:.2f}x" for k, rate in several.items()),
    ]
    return "\n".join(lines)
