"""Training speed of In-ResNet and ResNet with `fit`, against a plain loop in the common public style.

    python -m benchmarks.training_speed                          In-ResNet-110 and ResNet-110, batch 128
    python -m benchmarks.training_speed --depth 8 --width 8 --batch 16 --rounds 2 --eager --name try

- The plain loop: a DataLoader that runs torchvision's crop and flip on PIL images; eager, NCHW, fp32, same networks.
- `fit`: uint8 images and augmentation on the device, in its default layout, eager and compiled. On a CUDA device also
  in bf16 with steps recorded as CUDA graphs.
- Every round times all ways once, in a new random order, so that a machine that slows down slows all of them.
- Speed is the ratio to the plain loop of the same network in the same round. The cost of damping is the ratio of
  In-ResNet to ResNet. Both are medians with a 95% bound by bootstrap.
- Goals: 1.5 per step on a CPU; damping costs at most 1.02, beyond what a second ResNet shows.
- Images are random numbers, which cost as much as real ones. Epochs, the profile and several networks at once are
  measured on a CUDA device only.
"""

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

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
"""Number of steps -> seconds that they take."""
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
    """images per step"""
    rounds: int = 9
    """timed passes per way"""
    steps: int = 50 if CUDA else 1
    """steps of each way per round"""
    workers: int = 4 if CUDA else 0
    """of the plain loop's DataLoader"""
    threads: int = torch.get_num_threads()
    """threads of torch"""
    eager: bool = False
    """leave out the compiled ways"""
    whole: bool = False
    """also compile whole networks, which takes minutes each"""
    seed: int = 0
    """seed of weights, images, orders and bootstrap"""
    device: str = "cuda" if CUDA else "cpu"
    """cpu, cuda, ..."""
    name: str = "training_speed"
    """of the file under results/"""


class Pictures(Dataset[tuple[torch.Tensor, int]]):
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
        picture: torch.Tensor = self.transform(Image.fromarray(self.images[index]))
        return picture, self.labels[index]


def plain(network: nn.Module, data: ImageData, batch: int, workers: int) -> Way:
    """The training loop of many public repositories."""
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
        next(supply)  # the workers start before the timed steps
        start = clock(device)
        for _ in range(steps):
            x, y = (part.to(device, non_blocking=True) for part in next(supply))
            optimizer.zero_grad()
            criterion(network(x), y).backward()
            optimizer.step()
        return clock(device) - start

    return way


def engine(network: nn.Module, data: ImageData, batch: int, execution: Execution, stack: ExitStack) -> Way:
    """The steps of `fit`."""
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
    """Every way to train, named "way, network"."""

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


def random_images(args: Args) -> ImageData:
    """Images of CIFAR's size, for eight batches."""
    generator = torch.Generator().manual_seed(args.seed)
    x = torch.randint(0, 256, (args.batch * 8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    y = torch.arange(len(x)) % 10
    return ImageData("random", x, y, x[:1], y[:1], 10, Augmentation()).to(args.device)


def measure(args: Args) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Seconds of the first six steps of every way, and seconds per step in every round."""
    order = random.Random(args.seed)
    with ExitStack() as stack:
        named = ways(args, random_images(args), stack)
        started = {name: way(6) for name, way in named.items()}  # warms up, compiles, records
        seconds: dict[str, list[float]] = {name: [] for name in named}
        for _ in range(args.rounds):
            for name in order.sample(list(named), len(named)):
                seconds[name].append(named[name](args.steps) / args.steps)
    return started, seconds


@dataclass(frozen=True)
class Comparison:
    """How many times as long a step of ``reference`` takes as one of ``name``: median and 95% bounds."""

    name: str
    reference: str
    ratio: float
    lower_upper_95: list[float]


def compare(seconds: dict[str, list[float]], name: str, reference: str, bootstrap: np.random.Generator) -> Comparison:
    """Compare two ways round by round."""
    ratios = np.array(seconds[reference]) / np.array(seconds[name])
    draws = np.median(bootstrap.choice(ratios, (4000, len(ratios))), axis=1)
    bounds = [float(q) for q in np.quantile(draws, (0.05, 0.95))]
    return Comparison(name, reference, float(np.median(ratios)), bounds)


def speed_rows(
    args: Args, started: dict[str, float], seconds: dict[str, list[float]], bootstrap: np.random.Generator
) -> list[dict[str, Any]]:
    """One row per way, printed as a table too."""
    print(f"depth {args.depth}, width {args.width}, batch {args.batch}, {args.rounds} rounds, {args.threads} threads")
    print("| way | images/s | ms per step | to plain | 95% bounds |\n|---|---|---|---|---|")
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = statistics.median(abs(t - median) for t in times)
        speed = compare(seconds, name, f"plain, {name.rsplit(', ', 1)[1]}", bootstrap)
        low, high = speed.lower_upper_95
        print(
            f"| {name} | {args.batch / median:.0f} | {1e3 * median:.1f} ± {1e3 * spread:.1f} | "
            f"{speed.ratio:.2f} | {low:.2f}, {high:.2f} |"
        )
        rows.append(
            {
                "way": name,
                "n": len(times),
                "median_s": median,
                "spread_s": spread,
                "images_per_s": args.batch / median,
                "first_six_steps_s": started[name],
                "speed": asdict(speed),
            }
        )
    return rows


def damping_rows(seconds: dict[str, list[float]], bootstrap: np.random.Generator) -> list[Comparison]:
    """What damping costs in every way, and the noise of that ratio; printed as a table too."""
    titles = [name.removesuffix(", In-ResNet") for name in seconds if name.endswith(", In-ResNet")]
    pairs = [(f"{title}, ResNet", f"{title}, In-ResNet") for title in titles]
    pairs.append(("engine, ResNet", "engine again (noise), ResNet"))
    rows = [compare(seconds, name, reference, bootstrap) for name, reference in pairs]
    print("\n| a step of | over a step of | ratio | 95% bounds |\n|---|---|---|---|")
    for row in rows:
        low, high = row.lower_upper_95
        print(f"| {row.reference} | {row.name} | {row.ratio:.3f} | {low:.3f}, {high:.3f} |")
    return rows


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    bootstrap = np.random.default_rng(args.seed)
    started, seconds = measure(args)
    rows = speed_rows(args, started, seconds, bootstrap)
    damping = [asdict(row) for row in damping_rows(seconds, bootstrap)]
    on_gpu = training_speed_cuda.measure(args.depth, args.width, args.batch) if CUDA else "not measured: no CUDA device"
    print(f"\n{on_gpu if isinstance(on_gpu, str) else training_speed_cuda.text(on_gpu)}")

    keys = ("depth", "width", "batch", "rounds", "steps", "workers", "threads")
    settings = {key: getattr(args, key) for key in keys}
    payload = {**provenance(command(), args.seed), "settings": settings, "rows": rows, "damping": damping}
    print(f"written to {write(args.name, {**payload, 'cuda': on_gpu})}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
