"""What training_speed.py measures on a CUDA device alone: epochs, where the time goes, several seeds at once."""

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from dampode import models
from dampode.data import ImageData, pixels
from dampode.training import Execution, Recipe, fit
from dampode.training.recipe import optimizer

GRAPHS = Execution("bf16", "reduce-overhead")


def images(n: int) -> ImageData:
    """Random images of CIFAR's size, on the device."""
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, device="cuda")
    y = torch.arange(n, device="cuda") % 10
    return ImageData("random", x, y, x[:1], y[:1], 10)


def epoch_seconds(depth: int, width: int, batch: int) -> dict[str, float]:
    """Seconds an epoch of 50,000 images takes `fit`, after the one that compiles; bf16 with CUDA graphs."""
    found = {}
    for name in ("resnet", "in_resnet"):
        torch.manual_seed(0)
        network = getattr(models, name)(depth, width=width).cuda()
        history = fit(network, images(50_000), Recipe(epochs=4, batch_size=batch), execution=GRAPHS, label=name)
        found[name] = statistics.median(history.seconds[1:])
    return found


def profile_table(depth: int, width: int, batch: int, steps: int = 50) -> list[dict[str, Any]]:
    """The kernels that take the most time of the device, over some steps of In-ResNet in bf16 with CUDA graphs."""
    network, few = models.in_resnet(depth, width=width).cuda(), images(batch * steps)
    fit(network, few, Recipe(epochs=1, batch_size=batch), execution=GRAPHS)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        fit(network, few, Recipe(epochs=1, batch_size=batch), execution=GRAPHS)
        torch.cuda.synchronize()
    kernels = sorted(profiler.key_averages(), key=lambda k: k.self_device_time_total, reverse=True)
    total = sum(k.self_device_time_total for k in kernels)
    return [
        {"kernel": k.key[:100], "share": k.self_device_time_total / total, "calls_a_step": k.count / steps}
        for k in kernels[:15]
    ]


def several_at_once(depth: int, width: int, batch: int, most: int = 4, steps: int = 50) -> dict[int, float]:
    """Images a second of all of k = 1, 2, .. In-ResNets, each step a CUDA graph on a stream of its own."""
    data, found = images(batch), {}
    x = pixels(data.x_train).contiguous(memory_format=torch.channels_last)
    graphs, streams = [], []
    for seed in range(most):
        torch.manual_seed(seed)
        network = models.in_resnet(depth, width=width).cuda().to(memory_format=torch.channels_last)
        update = optimizer(network, Recipe(batch_size=batch))

        def step(network=network, update=update) -> None:
            update.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                logits = network(x)
            F.cross_entropy(logits.float(), data.y_train).backward()
            update.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        update.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graphs.append(graph)
        streams.append(stream)
        for attempt in range(2):  # the first warms up
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                for one, its_stream in zip(graphs, streams, strict=True):
                    with torch.cuda.stream(its_stream):
                        one.replay()
            torch.cuda.synchronize()
            if attempt:
                found[seed + 1] = steps * batch * len(graphs) / (time.perf_counter() - start)
    return found


def measure(depth: int, width: int, batch: int) -> dict[str, Any]:
    """All three, fit for JSON."""
    return {
        "epoch_s": epoch_seconds(depth, width, batch),
        "profile": profile_table(depth, width, batch),
        "images_per_s_of_k_seeds": several_at_once(depth, width, batch),
    }


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"seconds an epoch, bf16 with CUDA graphs: {found['epoch_s']}", "", "| kernel | share | calls a step |"]
    lines += ["|---|---|---|"]
    lines += [f"| {row['kernel']} | {row['share']:.1%} | {row['calls_a_step']:.1f} |" for row in found["profile"]]
    several = found["images_per_s_of_k_seeds"]
    lines += ["", *(f"{k} seeds at once: {rate:.0f} images/s, {rate / several[1]:.2f}x" for k, rate in several.items())]
    return "\n".join(lines)
