"""The speed of PGD-20, APGD-CE and AutoAttack compared with torchattacks, PGD-20 also with foolbox, on a ResNet-20.

All libraries attack the same network with the same images, ε, steps and batches; PGD has α = ε/4, APGD 100 steps, and
AutoAttack is the standard version with 100 steps and 5,000 queries. The AutoAttack of torchattacks has 10 steps, so its
four attacks are given 100 here. dampode attacks the network as its command line does: damping and batch norm folded,
and in the faster memory layout, which is the same function up to rounding. The libraries take turns in each round, so a
machine that slows down slows all of them. The table shows the median, the spread (median absolute deviation) and the
ratio of rates to each other library.

Two settings of dampode's PGD are measured. keep="strongest" works on every image to the last step, as the other
libraries do. keep="first" stops working on an image once it is broken, which gives the same robust accuracy. APGD and
AutoAttack always do so. The time this saves depends on how many images break, so two radii are measured.

The network is read from --checkpoint (a file of dampode.models.save). By default it is trained for a minute or two on
scikit-learn's digits, enlarged to 3 x 32 x 32 so that it costs as much as on CIFAR. With --quick, few
images of a shallow network are attacked for one round, and nothing is written.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import foolbox
import torch
import torch.nn.functional as F
import torchattacks
import tyro
from torch import Tensor, nn

from benchmarks.common import record
from dampode import data, models, training
from dampode.robustness import APGD, AutoAttack, pgd
from dampode.robustness.attacks.gradient import Keep
from dampode.robustness.classifier import correct

STEPS = 20
WARM_UP = 4
"""Images of the first, untimed run of each attack."""
Attack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Args:
    """Compare the speed of attacks."""

    depth: int = 20
    """number of weighted layers, 6n + 2"""
    width: int = 16
    """channels of the first stage"""
    checkpoint: Path | None = None
    """a file of dampode.models.save with this depth and width"""
    data: str = "digits"
    """digits, cifar10, or the path of an .npz file"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    images: int = 360
    """number of test images, drawn at random"""
    epochs: int = 15
    """epochs of training, without a checkpoint"""
    eps: tuple[float, ...] = (4, 16)
    """radii, in 1/255"""
    attack: Literal["pgd", "apgd", "auto"] = "pgd"
    """PGD-20, APGD-CE of 100 steps, or standard AutoAttack; its time is about 4 s per image that stands"""
    batch: int = 120
    """images per forward pass"""
    rounds: int = 3
    """timed runs of each attack"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""
    threads: int = torch.get_num_threads()
    """threads of torch"""
    seed: int = 0
    """seed of weights and starts"""
    quick: bool = False
    """run a shallow network on few images, and write nothing"""


def attacks_by_name(model: nn.Module, folded: nn.Module, eps: float, args: Args) -> dict[str, Attack]:
    """The attacks by name, each (x, y) -> x', on all images in batches; dampode attacks the folded network."""
    device, batch = next(model.parameters()).device, args.batch
    generator = torch.Generator(device).manual_seed(args.seed)
    if args.attack == "apgd":
        theirs = torchattacks.APGD(model, eps=eps, steps=100, loss="ce")
        return {
            "ours": lambda x, y: APGD()(folded, x, y, eps, generator, batch),
            "torchattacks": partial(in_batches, theirs, batch=batch),
        }
    if args.attack == "auto":
        theirs = auto_attack_of_torchattacks(model, eps, args.seed)
        return {
            "ours": lambda x, y: AutoAttack()(folded, x, y, eps, generator, batch),
            "torchattacks": partial(in_batches, theirs, batch=batch),
        }
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    of_foolbox = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=STEPS, random_start=True)
    of_torchattacks = torchattacks.PGD(model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)

    def ours(keep: Keep) -> Attack:  # the same starts for both values of keep
        starts = torch.Generator(device).manual_seed(args.seed)
        return lambda x, y: pgd(folded, x, y, eps, steps=STEPS, keep=keep, generator=starts, batch_size=batch)

    return {
        'ours, keep="first"': ours("first"),
        'ours, keep="strongest"': ours("strongest"),
        "foolbox": partial(in_batches, lambda x, y: of_foolbox.run(wrapped, x, y, epsilon=eps), batch=batch),
        "torchattacks": partial(in_batches, of_torchattacks, batch=batch),
    }


def auto_attack_of_torchattacks(model: nn.Module, eps: float, seed: int) -> Attack:
    """The four attacks of standard AutoAttack, with the settings of Croce & Hein (2020)."""
    settings: dict[str, Any] = {"eps": eps, "seed": seed, "n_restarts": 1}
    attack: Attack = torchattacks.MultiAttack(
        [
            torchattacks.APGD(model, steps=100, loss="ce", **settings),
            torchattacks.APGDT(model, steps=100, n_classes=10, **settings),
            torchattacks.FAB(model, steps=100, multi_targeted=True, n_classes=10, **settings),
            torchattacks.Square(model, n_queries=5000, resc_schedule=False, **settings),
        ]
    )
    return attack


def in_batches(attack: Attack, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """The perturbed images of all batches."""
    return torch.cat([attack(*part).detach() for part in zip(x.split(batch), y.split(batch), strict=True)])


def measure(model: nn.Module, folded: nn.Module, x: Tensor, y: Tensor, eps: float, args: Args) -> list[dict[str, Any]]:
    """One row per attack. The attacks take turns in each round, after a few images each to warm up."""
    attacks = attacks_by_name(model, folded, eps, args)
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    flags: dict[str, Tensor] = {}
    for attack in attacks.values():
        attack(x[:WARM_UP], y[:WARM_UP])
    for _ in range(args.rounds):
        for name, attack in attacks.items():
            start = record.clock(args.device)
            perturbed = attack(x, y)
            seconds[name].append(record.clock(args.device) - start)
            flags[name] = correct(model, perturbed, y)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        ratios = {
            f"ratio_{rival}": statistics.median(b / a for a, b in zip(times, seconds[rival], strict=True))
            for rival in ("foolbox", "torchattacks")
            if rival in seconds
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
                "robust_accuracy": flags[name].double().mean().item(),
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


def network(args: Args) -> tuple[models.PreResNet, data.ImageData]:
    """A trained network and its images."""
    images = data.load(args.data, root=args.root)
    images = enlarged(images) if args.data == "digits" else images
    images = images.subset(test=args.images).to(args.device)
    model = models.resnet(args.depth, images.num_classes, width=args.width).to(args.device)
    if args.checkpoint:
        models.load(model, args.checkpoint)
    else:
        recipe = training.Recipe(args.epochs, lr=0.05)
        training.fit(model, replace(images, augmentation=data.Augmentation(4, False)), recipe)
    return model.eval(), images


def main(args: Args) -> None:
    if not args.eps:
        raise SystemExit("error: --eps needs at least one value")
    if args.quick:
        args = replace(args, depth=8, width=8, images=40, batch=20, rounds=1, epochs=1)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model, images = network(args)
    x, y = data.pixels(images.x_test), images.y_test
    clean = correct(model, x, y).double().mean().item()

    folded = models.fold_batch_norm(models.fold(model))
    with training.Execution().layout(folded, x.device):
        rows = [row for e in args.eps for row in measure(model, folded, x, y, e / 255, args)]
    print(f"ResNet-{args.depth}, {images.name}, {len(x)} images, batches of {args.batch}, {args.rounds} rounds")
    print(f"{args.threads} threads, {args.device}, clean accuracy {100 * clean:.1f} %")
    print(f"{'':24}{'ε':>8}{'images/s':>10}{'spread s':>10}{'x foolbox':>11}{'x torchattacks':>16}{'robust %':>10}")
    for row in rows:
        print(
            f"{row['way']:24}{row['eps_255']:>4g}/255{row['images_per_s']:10.1f}{row['spread_s']:10.2f}"
            f"{row.get('ratio_foolbox', float('nan')):11.2f}{row['ratio_torchattacks']:16.2f}"
            f"{100 * row['robust_accuracy']:10.2f}"
        )
    if not args.quick:
        rivals = {name: version(name) for name in ("foolbox", "torchattacks")}
        settings = {k: v.name if isinstance(v, Path) else v for k, v in vars(args).items()}
        payload = {**record.provenance(record.command(), args.seed), "rivals": rivals, "settings": settings}
        name = "attack_speed" if args.attack == "pgd" else f"attack_speed_{args.attack}"
        path = record.write(name, {**payload, "clean_accuracy": clean, "rows": rows})
        print(f"written to {path}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
