"""Training: images a second of In-ResNet and ResNet with the engine, against a plain loop in the common public style.

    python benchmarks/training_speed.py                          In-ResNet-110 and ResNet-110, batch 128
    python benchmarks/training_speed.py --depth 8 --width 8 --batch 16 --rounds 2 --eager --name try

The plain loop: a DataLoader that runs torchvision's crop and flip on PIL images, eager, NCHW, fp32, on the same
networks. The engine: uint8 images and augmentation on the device, in its default layout, eager and compiled; on a CUDA
device also in bf16 with its steps recorded as CUDA graphs. Every round times all ways once, in a new random order, so
that a machine that slows down slows all of them. Speed is the ratio to the plain loop of the same network in the same
round, the cost of damping that of In-ResNet to ResNet; a median with a 95% bound by bootstrap. Goals: 1.5 a step on a
CPU; damping 1.02 beyond what a second ResNet shows. Images are random numbers: they cost what real ones cost. Epochs,
the profile and several seeds at once are measured on a CUDA device only.
"""

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import training_speed_cuda
from benchmarks.common.record import clock, command, provenance, write
from dampode import models
from dampode.data import Augmentation, ImageData
from dampode.training import Execution, Recipe
from dampode.training.processes import processes
from dampode.training.run import Run

Way = Callable[[int], float]
"""Takes a number of steps; returns the seconds that they took."""
NETWORKS = {"ResNet": models.resnet, "In-ResNet": models.in_resnet}
CUDA = torch.cuda.is_available()


@dataclass(frozen=True)
class Args:
    """What to measure, and how often."""

    depth: int = 110
    """weighted layers, 6n + 2"""
    width: int = 16
    """channels of the first stage"""
    batch: int = 128
    """images a step"""
    rounds: int = 9
    """times that every way is timed"""
    steps: int = 50 if CUDA else 1
    """steps of each way in a round"""
    workers: int = 4 if CUDA else 0
    """of the plain loop's DataLoader"""
    threads: int = torch.get_num_threads()
    """threads of torch"""
    eager: bool = False
    """leave out the compiled ways"""
    whole: bool = False
    """compile whole networks too: minutes each"""
    seed: int = 0
    """seed of weights, images, orders and bootstrap"""
    device: str = "cuda" if CUDA else "cpu"
    """cpu, cuda, ..."""
    name: str = "training_speed"
    """of the file under results/"""


class Pictures(Dataset):
    """PIL images through torchvision's transforms, one at a time, as torchvision's CIFAR10 does."""

    def __init__(self, data: ImageData) -> None:
        self.images = data.x_train.cpu().permute(0, 2, 3, 1).numpy()
        self.labels = data.y_train.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain(network: nn.Module, data: ImageData, batch: int, workers: int) -> Way:
    """The loop that one finds in public repositories."""
    device = data.x_train.device
    loader = DataLoader(Pictures(data), batch, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    network.train()

    def batches() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    def way(steps: int) -> float:
        supply = batches()
        next(supply)  # workers start outside the measured time, and end with the round
        start = clock(device)
        for _ in range(steps):
            x, y = (part.to(device, non_blocking=True) for part in next(supply))
            optimizer.zero_grad()
            criterion(network(x), y).backward()
            optimizer.step()
        return clock(device) - start

    return way


def engine(network: nn.Module, data: ImageData, batch: int, execution: Execution, stack: ExitStack) -> Way:
    """What `fit` runs."""
    device = data.x_train.device
    layout = stack.enter_context(execution.layout(network, device))
    run = Run(network, data, Recipe(batch_size=batch), execution, 0, layout, processes(device))
    supply = training_speed_cuda.endless(run)

    def way(steps: int) -> float:
        start = clock(device)
        for _ in range(steps):
            next(supply)
        return clock(device) - start

    return way


def ways(args: Args, data: ImageData, stack: ExitStack) -> dict[str, Way]:
    """Every way to train, by "way, network"."""

    def network(name: str) -> nn.Module:
        torch.manual_seed(args.seed)
        return NETWORKS[name](args.depth, width=args.width).to(data.x_train.device)

    executions = {"engine": Execution(), "engine again (noise)": Execution()}
    if not args.eager:
        executions["engine, blocks compiled"] = Execution(compile="blocks")
    if args.whole:
        executions["engine, compiled whole"] = Execution(compile="default")
    if data.x_train.device.type == "cuda":
        executions["engine, bf16"] = Execution("bf16")
        executions["engine, bf16, steps recorded"] = Execution("bf16", step_graph=True)
        executions["engine, bf16, blocks compiled, steps recorded"] = training_speed_cuda.FAST
    found = {f"plain, {name}": plain(network(name), data, args.batch, args.workers) for name in NETWORKS}
    for title, execution in executions.items():
        for name in NETWORKS if title != "engine again (noise)" else ["ResNet"]:
            found[f"{title}, {name}"] = engine(network(name), data, args.batch, execution, stack)
    return found


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    order, bootstrap = random.Random(args.seed), np.random.default_rng(args.seed)

    generator = torch.Generator().manual_seed(args.seed)
    x = torch.randint(0, 256, (args.batch * 8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.arange(len(x)) % 10
    data = ImageData("random", x, y, x[:1], y[:1], 10, Augmentation()).to(args.device)
    with ExitStack() as stack:
        contestants = ways(args, data, stack)
        started = {name: way(6) for name, way in contestants.items()}  # warms up, compiles, records
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(args.rounds):
            for name in order.sample(list(contestants), len(contestants)):
                seconds[name].append(contestants[name](args.steps) / args.steps)

    def against(name: str, reference: str) -> dict[str, object]:
        """How much longer a step of ``reference`` takes, round by round."""
        ratios = np.array(seconds[reference]) / np.array(seconds[name])
        draws = np.median(bootstrap.choice(ratios, (4000, len(ratios))), axis=1)
        bounds = [float(q) for q in np.quantile(draws, (0.05, 0.95))]
        return {"name": name, "reference": reference, "ratio": float(np.median(ratios)), "lower_upper_95": bounds}

    rows = [
        {
            "way": name,
            "n": len(times),
            "median_s": (median := statistics.median(times)),
            "spread_s": statistics.median(abs(t - median) for t in times),
            "images_per_s": args.batch / median,
            "first_six_steps_s": started[name],
            "speed": against(name, f"plain, {name.rsplit(', ', 1)[1]}"),
        }
        for name, times in seconds.items()
    ]
    titles = [name.removesuffix(", In-ResNet") for name in seconds if name.endswith(", In-ResNet")]
    damping = [against(f"{title}, ResNet", f"{title}, In-ResNet") for title in titles]
    damping.append(against("engine, ResNet", "engine again (noise), ResNet"))
    print(f"depth {args.depth}, width {args.width}, batch {args.batch}, {args.rounds} rounds, {args.threads} threads")
    print("| way | images/s | ms a step | to plain | 95% bounds |\n|---|---|---|---|---|")
    for row in rows:
        low, high = row["speed"]["lower_upper_95"]
        print(
            f"| {row['way']} | {row['images_per_s']:.0f} | {1e3 * row['median_s']:.1f} ± {1e3 * row['spread_s']:.1f} | "
            f"{row['speed']['ratio']:.2f} | {low:.2f}, {high:.2f} |"
        )
    print("\n| a step of | over a step of | ratio | 95% bounds |\n|---|---|---|---|")
    for row in damping:
        low, high = row["lower_upper_95"]
        print(f"| {row['reference']} | {row['name']} | {row['ratio']:.3f} | {low:.3f}, {high:.3f} |")
    on_gpu = training_speed_cuda.measure(args.depth, args.width, args.batch) if CUDA else "not measured: no CUDA device"
    print(f"\n{on_gpu if isinstance(on_gpu, str) else training_speed_cuda.text(on_gpu)}")

    keys = ("depth", "width", "batch", "rounds", "steps", "workers", "threads")
    settings = {key: getattr(args, key) for key in keys}
    payload = {**provenance(command(), args.seed), "settings": settings, "rows": rows, "damping": damping}
    print(f"written to {write(args.name, {**payload, 'cuda': on_gpu})}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
