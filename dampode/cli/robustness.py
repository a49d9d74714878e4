"""Measure the robustness of a saved network: python -m dampode.cli.robustness --model FILE --network NAME --data NAME.

The network is built by name, depth and width, and filled from a file of dampode.models.save, or from a training
checkpoint (.pt). report.json, report.md and robustness.png are written under --out; an interrupted run goes on where
it was when the same command is given again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dampode import data, models, robustness
from dampode._files import only_writer
from dampode.models.weights_file import require_architecture
from dampode.training import load_checkpoint
from dampode.training.processes import local_device


@dataclass(frozen=True)
class Args:
    """Measure the robustness of a saved network."""

    model: Path
    """file of dampode.models.save, or a checkpoint (.pt)"""
    network: Literal["resnet", "in_resnet", "lambda_in_resnet", "cnn"]
    """which network the file is of"""
    out: Path
    """folder of the report"""
    depth: int = 110
    """weighted layers"""
    width: int = 16
    """channels of the first stage"""
    data: str = "cifar10"
    """digits, cifar10, cifar100, or the path of an .npz file"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    images: int | None = None
    """measure on a random subset of the test images of this size"""
    eps: tuple[float, ...] = (1, 2, 4, 8)
    """radii, in 1/255"""
    steps: int = 20
    """steps of IFGSM and PGD"""
    alpha: float = 2
    """step of IFGSM and PGD, in 1/255"""
    restarts: int = 1
    """random starts of PGD"""
    cifar_c: Path | None = None
    """folder of the official CIFAR-C files; else noise is drawn"""
    seed: int = 0
    """seed of all draws"""
    batch_size: int = 500
    """images a forward pass"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


def arguments(command: Sequence[str] | None) -> Args:
    """The command line, or a list of flags."""
    try:
        import tyro
    except ImportError:
        raise ImportError("the command line is tyro's: install dampode[train]") from None
    return tyro.cli(Args, prog="python -m dampode.cli.robustness", description=__doc__, args=command)


def load(args: Args, images: data.ImageData) -> nn.Module:
    """The network, filled from its file."""
    mean, std = images.statistics()
    build: Callable[..., nn.Module] = getattr(models, args.network)
    model = build(args.depth, images.num_classes, width=args.width, in_channels=images.channels, mean=mean, std=std)
    if args.model.suffix == ".pt":
        state = load_checkpoint(args.model)
        require_architecture(model, state["architecture"], args.model)
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"{args.model} must be of the network named: {error}") from None
    else:
        models.load(model, args.model)
    return model.to(images.x_test.device).eval()


def measure(args: Args) -> None:
    """Measure and write."""
    device = local_device(args.device)
    images = data.load(args.data, root=args.root).subset(test=args.images).to(device)
    model = load(args, images)
    x, y = data.pixels(images.x_test), images.y_test
    alpha = args.alpha / 255
    attacks = {
        "uniform noise": robustness.UniformNoise(),
        "FGSM": robustness.FGSM(),
        "IFGSM": robustness.IFGSM(alpha, args.steps),
        "PGD": robustness.PGD(alpha, args.steps, args.restarts),
    }
    partial = args.out / "report.part.json"
    report = robustness.evaluate(
        model,
        x,
        y,
        eps=[e / 255 for e in args.eps],
        attacks=attacks,
        noise=robustness.CifarCFiles(args.cifar_c, y, device) if args.cifar_c else None,
        seed=args.seed,
        batch_size=args.batch_size,
        partial=partial,
        progress=True,
    )
    report.save(args.out)
    figure(report, args.out / "robustness.png")
    partial.unlink()
    print(report.markdown())
    print(f"written under {args.out}")


def figure(report: robustness.Report, path: Path) -> None:
    """Accuracy against severity and against ε, side by side."""
    import matplotlib.pyplot as plt

    from dampode import plots

    drawn, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    plots.accuracy_by_severity(left, report)
    plots.accuracy_by_radius(right, report)
    right.set_ylabel("")
    drawn.savefig(path, dpi=150)
    plt.close(drawn)


def main(command: Sequence[str] | None = None) -> None:
    """Run the command line; what is wrong with the input ends it in words."""
    try:
        args = arguments(command)
        with only_writer(args.out / "report.json"):
            measure(args)
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; give the same command again to go on") from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
