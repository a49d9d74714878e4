"""PGD-20 against foolbox's and torchattacks' on a trained ResNet-20: images a second and robust accuracy.

Everybody attacks the same network, unchanged, with the same images, ε, α = ε/4, steps and batches, one way after
another in every round, so that a machine that slows down slows all of them; the table shows medians, the spread (median
absolute deviation) and the ratio of rates to each rival's. Ours runs twice: keep="strongest" works on every image to
the last step, as the others do, and keep="first" leaves an image once it is broken, which gives the same robust
accuracy. How much that saves depends on how much the attack breaks, so two radii are measured.

The network is read from --checkpoint (a file of dampode.models.save), or trained for a minute or two on
scikit-learn's digits enlarged to 3 x 32 x 32, so that it costs what it costs on CIFAR. --quick takes a shallow network,
few images and one round: it shows that the benchmark runs, and writes nothing.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _report
import foolbox
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from dampode import data, models, training
from dampode.robustness import correct, pgd
from dampode.robustness.attacks import Keep

STEPS = 20
Attack = Callable[[Tensor, Tensor], Tensor]


def ways(model: nn.Module, eps: float, seed: int) -> dict[str, Attack]:
    """Every attack by name, each (x, y) -> x'."""
    device = next(model.parameters()).device
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=STEPS, random_start=True)
    others = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)

    def ours(keep: Keep) -> Attack:  # from the same starts, whichever iterate is kept
        generator = torch.Generator(device).manual_seed(seed)
        return lambda x, y: pgd(model, x, y, eps, alpha=eps / 4, steps=STEPS, keep=keep, generator=generator)

    return {
        'ours, keep="first"': ours("first"),
        'ours, keep="strongest"': ours("strongest"),
        "foolbox": lambda x, y: theirs.run(wrapped, x, y, epsilon=eps),
        "torchattacks": lambda x, y: others(x, y),
    }


def in_batches(attack: Attack, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """The attack on all images."""
    moved = torch.cat([attack(*part) for part in zip(x.split(batch), y.split(batch), strict=True)])
    if x.is_cuda:
        torch.cuda.synchronize()
    return moved


def measure(model: nn.Module, x: Tensor, y: Tensor, eps: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a way: seconds of every round, the ways taking turns, after one batch each to warm up."""
    attacks = ways(model, eps, args.seed)
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    right: dict[str, Tensor] = {}
    for attack in attacks.values():
        in_batches(attack, x[: args.batch], y[: args.batch], args.batch)
    for _ in range(args.rounds):
        for name, attack in attacks.items():
            start = time.perf_counter()
            moved = in_batches(attack, x, y, args.batch)
            seconds[name].append(time.perf_counter() - start)
            right[name] = correct(model, moved, y)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = {
            f"ratio_{rival}": statistics.median(b / a for a, b in zip(times, seconds[rival], strict=True))
            for rival in ("foolbox", "torchattacks")
        }
        rows.append(
            {
                "way": name,
                "eps_255": 255 * eps,
                "n": len(times),
                "median_s": median,
                "spread_s": statistics.median(abs(t - median) for t in times),
                "images_per_s": len(x) / median,
                **ratios,
                "robust_accuracy": right[name].double().mean().item(),
            }
        )
    return rows


def enlarged(images: data.ImageData) -> data.ImageData:
    """The digits as 3 x 32 x 32 images."""

    def grow(x: Tensor) -> Tensor:
        return F.interpolate(data.pixels(x), scale_factor=4, mode="bilinear").clamp(0, 1).expand(-1, 3, -1, -1)

    return data.ImageData(
        "digits, 3 x 32 x 32", grow(images.x_train), images.y_train, grow(images.x_test), images.y_test, 10
    )


def network(args: argparse.Namespace) -> tuple[nn.Module, data.ImageData]:
    """A trained network and its images."""
    images = data.load(args.data, root=args.root)
    images = enlarged(images) if args.data == "digits" else images
    images = images.subset(test=args.images).to(args.device)
    model = models.resnet(args.depth, images.num_classes, width=args.width).to(args.device)
    if args.checkpoint:
        models.load(model, args.checkpoint)
    else:
        recipe = training.Recipe(args.epochs, lr=0.05)
        training.fit(model, data.ImageData(**{**vars(images), "augmentation": data.Augmentation(4, False)}), recipe)
    return model.eval(), images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--checkpoint", type=Path, help="a file of dampode.models.save with this depth and width")
    parser.add_argument("--data", default="digits", help="digits, cifar10, or the path of an .npz file")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the CIFAR files")
    parser.add_argument("--images", type=int, default=360)
    parser.add_argument("--epochs", type=int, default=15, help="of training, without a checkpoint")
    parser.add_argument("--eps", type=float, nargs="+", default=[4, 16], help="radii, in 1/255")
    parser.add_argument("--batch", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a shallow network, few images, nothing written")
    args = parser.parse_args()
    if args.quick:
        args.depth, args.width, args.images, args.batch, args.rounds, args.epochs = 8, 8, 40, 20, 1, 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, images = network(args)
    x, y = data.pixels(images.x_test), images.y_test
    clean = correct(model, x, y).double().mean().item()

    rows = [row for e in args.eps for row in measure(model, x, y, e / 255, args)]
    print(f"ResNet-{args.depth}, {images.name}, {len(x)} images, batches of {args.batch}, {args.rounds} rounds")
    print(f"{args.threads} threads, {args.device}, clean accuracy {100 * clean:.1f} %")
    print(f"{'':24}{'ε':>8}{'images/s':>10}{'spread s':>10}{'x foolbox':>11}{'x torchattacks':>16}{'robust %':>10}")
    for row in rows:
        print(
            f"{row['way']:24}{row['eps_255']:>4g}/255{row['images_per_s']:10.1f}{row['spread_s']:10.2f}"
            f"{row['ratio_foolbox']:11.2f}{row['ratio_torchattacks']:16.2f}{100 * row['robust_accuracy']:10.2f}"
        )
    if not args.quick:
        command = shlex.join(["python", "benchmarks/attack_speed.py", *sys.argv[1:]])
        rivals = {name: version(name) for name in ("foolbox", "torchattacks")}
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        payload = {**_report.provenance(command, args.seed), "rivals": rivals, "settings": settings}
        path = _report.write("attack_speed", {**payload, "clean_accuracy": clean, "rows": rows})
        print(f"written to {path}")


if __name__ == "__main__":
    main()
