"""Measure the robustness of a saved network.

The network is built from its name, depth and width, and its tensors are read from a file that dampode.models.save
wrote, or from a training checkpoint (.pt). The command writes report.json, report.md and robustness.png into the
folder --out. If it is interrupted, the same command resumes the measurement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dampode import data, models, robustness
from dampode._checks import require_positive_int
from dampode._files import only_writer, user_path, write_atomically
from dampode.models.weights_file import require_architecture

__all__ = ["Args", "main"]


@dataclass(frozen=True)
class Args:
    """Measure the robustness of a saved network."""

    model: Path
    """file of dampode.models.save, or a training checkpoint (.pt)"""
    network: Literal["resnet", "in_resnet", "lambda_in_resnet", "cnn"]
    """network in the file"""
    out: Path
    """folder of the report"""
    depth: int = 110
    """number of weighted layers"""
    width: int = 16
    """channels of the first stage"""
    data: str = "cifar10"
    """digits, cifar10, cifar100, or the path of an .npz file"""
    layout: Literal["NHWC", "NCHW"] | None = None
    """axes of the images in an .npz file; by default recognized"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    images: int | None = None
    """number of test images, drawn at random; by default all"""
    eps: tuple[float, ...] = (1, 2, 4, 8)
    """radii of the attacks, in 1/255"""
    steps: int = 20
    """steps of IFGSM and PGD"""
    alpha: float | None = None
    """step length of IFGSM and PGD, in 1/255; by default a quarter of the radius. The paper has 2"""
    restarts: int = 1
    """random starts of PGD"""
    cifar_c: Path | None = None
    """folder of the official CIFAR-C files; by default noise is drawn"""
    seed: int = 0
    """seed of all draws"""
    batch_size: int = 500
    """images per forward pass"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""


def parse(command: Sequence[str] | None) -> Args:
    """The arguments in a list of flags, or in this process's command line."""
    try:
        import tyro
    except ImportError:
        raise ImportError("the command line is tyro's: install dampode[train]") from None
    return tyro.cli(Args, prog="dampode-robustness", description=__doc__, args=command)


def _with_home(args: Args) -> Args:
    """The arguments, in whose paths "~" means the home folder."""
    cifar_c = None if args.cifar_c is None else user_path(args.cifar_c)
    return replace(args, model=user_path(args.model), out=user_path(args.out), cifar_c=cifar_c)


def load_network(args: Args, images: data.ImageData) -> models.PreResNet:
    """The network with the tensors of its file, in eval mode, on the images' device."""
    mean, std = images.statistics()
    build: Callable[..., models.PreResNet] = getattr(models, args.network)
    model = build(args.depth, images.num_classes, width=args.width, in_channels=images.channels, mean=mean, std=std)
    if args.model.suffix == ".pt":
        from dampode.training import load_checkpoint

        state = load_checkpoint(args.model)
        require_architecture(model, state["architecture"], args.model)
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"{args.model} must hold the network {args.network}: {error}") from None
    else:
        models.load(model, args.model)
    return model.to(images.x_test.device).eval()


def without_damping(model: models.PreResNet) -> tuple[nn.Module, str]:
    """The network to measure, `models.fold` of the model where it can be folded, and what it is in words."""
    try:
        return models.fold(model), "damping folded by models.fold, the same function up to rounding"
    except ValueError as error:
        return model, f"as saved: {error}"


def choose(n: int, images: int | None) -> torch.Tensor:
    """Indices of the measured images among n, drawn at random as `ImageData.subset` draws them; None takes all."""
    if images is None:
        return torch.arange(n)
    require_positive_int(images, "the number of images")
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:images]


def measure(args: Args) -> None:
    """Measure the network, then write and print the report."""
    from dampode.training.processes import local_device

    device = local_device(args.device)
    images = data.load(args.data, root=args.root, layout=args.layout).to(device)
    model, form = without_damping(load_network(args, images))
    chosen = choose(len(images.x_test), args.images)
    x, y = data.pixels(images.x_test[chosen.to(device)]), images.y_test[chosen.to(device)]
    alpha = None if args.alpha is None else args.alpha / 255
    attacks: dict[str, robustness.Attack] = {
        "uniform noise": robustness.UniformNoise(),
        "FGSM": robustness.FGSM(),
        "IFGSM": robustness.IFGSM(alpha, args.steps, keep="first"),
        "PGD": robustness.PGD(alpha, args.steps, args.restarts, keep="first"),
    }
    partial = args.out / "report.part.json"
    report = robustness.evaluate(
        model,
        x,
        y,
        eps=[e / 255 for e in args.eps],
        attacks=attacks,
        noise=robustness.CifarCFiles(args.cifar_c, y, device, chosen) if args.cifar_c else None,
        seed=args.seed,
        batch_size=args.batch_size,
        partial=partial,
        progress=True,
    )
    report = replace(report, settings={"network": f"{args.network}-{args.depth}, {form}", **report.settings})
    report.save(args.out)
    draw(report, args.out / "robustness.png")
    partial.unlink()
    print(report.markdown())
    print(f"written to {args.out}")


def draw(report: robustness.Report, path: Path) -> None:
    """Write a figure of the accuracy against severity and against ε in each norm, side by side."""
    import matplotlib.pyplot as plt

    from dampode import plots

    panels = 1 + len(report.norms)
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 4), layout="constrained", sharey=True, squeeze=False)
    plots.accuracy_by_severity(axes[0, 0], report)
    for ax, norm in zip(axes[0, 1:], report.norms, strict=True):
        plots.accuracy_by_radius(ax, report, norm).set_ylabel("")
    write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))
    plt.close(figure)


def main(command: Sequence[str] | None = None) -> None:
    """Run the command line. Invalid input ends the process with a message.

    Args:
        command: flags; by default those of this process.
    """
    try:
        args = _with_home(parse(command))
        with only_writer(args.out / "report.json"):
            measure(args)
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; give the same command again to resume") from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
