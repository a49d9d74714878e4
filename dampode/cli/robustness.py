"""Measure the robustness of a saved network.

The network is built from its name, depth and width, and its tensors are read from a file that dampode.models.save
wrote, or from a training checkpoint (.pt). It is measured under noise and under uniform noise, FGSM, IFGSM and PGD; in
L2 under FGSM and PGD. The command writes report.json, report.md and robustness.png into the folder --out. If it is
interrupted, the same command resumes the measurement.
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
from dampode.robustness.attacks.auto_attack import Version
from dampode.robustness.norms import Norm

__all__ = ["Args", "main"]

Network = Literal["resnet", "in_resnet", "lambda_in_resnet", "cnn"]
SMALLEST_EPS = 0.1
"""The smallest radius of L∞ in 1/255. A smaller number, such as 0.03, is meant in pixel units."""


@dataclass(frozen=True)
class Args:
    """Measure the robustness of a saved network."""

    model: Path
    """file of dampode.models.save, or a training checkpoint (.pt)"""
    network: Network
    """network in the file"""
    out: Path
    """folder of the report"""
    depth: int = 110
    """number of weighted layers"""
    width: int = 16
    """channels of the first stage"""
    data: str = "cifar10"
    """digits, cifar10, cifar100, or the path of an .npz file or of a folder with train/CLASS and test/CLASS"""
    layout: Literal["NHWC", "NCHW"] | None = None
    """axes of the images in an .npz file; by default recognized"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    images: int | None = None
    """number of test images, drawn at random; by default all"""
    norm: Norm = "linf"
    """norm of the attacks"""
    eps: tuple[float, ...] | None = None
    """radii of the attacks: linf in 1/255, by default 1 2 4 8; l2 in pixels of [0, 1], by default 0.25 0.5 1"""
    steps: int = 20
    """steps of IFGSM and PGD"""
    alpha: float | None = None
    """step length of IFGSM and PGD, in the unit of --eps; by default a quarter of the radius. The paper has 2"""
    restarts: int = 1
    """random starts of PGD"""
    autoattack: Version | None = None
    """AutoAttack too, in this version"""
    transfer: Path | None = None
    """file of another network, of the same depth and width, whose attacked images are tried too"""
    transfer_network: Network | None = None
    """network in --transfer; by default that of --network"""
    cifar_c: Path | None = None
    """folder of CIFAR-C: all corruptions there, in place of drawn noise"""
    imagenet_c: Path | None = None
    """folder of ImageNet-C: all corruptions there, in place of drawn noise"""
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
    optional = [None if path is None else user_path(path) for path in (args.transfer, args.cifar_c, args.imagenet_c)]
    model, out, (transfer, cifar_c, imagenet_c) = user_path(args.model), user_path(args.out), optional
    return replace(args, model=model, out=out, transfer=transfer, cifar_c=cifar_c, imagenet_c=imagenet_c)


def load_network(args: Args, network: Network, file: Path, images: data.ImageData) -> models.PreResNet:
    """A network with the tensors of its file, in eval mode, on the images' device."""
    mean, std = images.statistics()
    build: Callable[..., models.PreResNet] = getattr(models, network)
    model = build(args.depth, images.num_classes, width=args.width, in_channels=images.channels, mean=mean, std=std)
    if file.suffix == ".pt":
        from dampode.training import load_checkpoint

        state = load_checkpoint(file)
        require_architecture(model, state["architecture"], file)
        try:
            model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"{file} must hold the network {network}: {error}") from None
    else:
        models.load(model, file)
    return model.to(images.x_test.device).eval()


def at_lower_cost(model: models.PreResNet) -> tuple[nn.Module, str]:
    """The same function at a lower cost, damping and batch norm folded where they can be, and what it is in words."""
    try:
        plain, words = models.fold(model), "damping and batch norm folded"
    except ValueError as error:
        plain, words = model, f"batch norm folded, damping as saved: {error}"
    return models.fold_batch_norm(plain), f"{words}; the same function up to rounding"


def choose(n: int, images: int | None) -> torch.Tensor:
    """Indices of the measured images among n, drawn at random as `ImageData.subset` draws them; None takes all."""
    if images is None:
        return torch.arange(n)
    require_positive_int(images, "the number of images")
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:images]


def radii(args: Args) -> list[float]:
    """The radii in pixel units.

    Raises:
        ValueError: a radius of L∞ is not in 1/255.
    """
    if args.norm == "l2":
        return list((0.25, 0.5, 1) if args.eps is None else args.eps)
    eps = (1, 2, 4, 8) if args.eps is None else args.eps
    for e in eps:
        if not SMALLEST_EPS <= e <= 255:
            raise ValueError(
                f"--eps is in units of 1/255 for the norm linf, from {SMALLEST_EPS} to 255, got {e:g}; "
                "for a radius of 8/255 give 8"
            )
    return [e / 255 for e in eps]


def attacks_of(args: Args) -> dict[str, robustness.Attack]:
    """The attacks by name. IFGSM and uniform noise have no L2."""
    alpha = args.alpha if args.alpha is None or args.norm == "l2" else args.alpha / 255
    attacks: dict[str, robustness.Attack] = {"FGSM": robustness.FGSM(args.norm)}
    if args.norm == "linf":
        attacks = {"uniform noise": robustness.UniformNoise(), **attacks}
        attacks["IFGSM"] = robustness.IFGSM(alpha, args.steps, keep="first")
    attacks["PGD"] = robustness.PGD(alpha, args.steps, args.restarts, keep="first", norm=args.norm)
    if args.autoattack is not None:
        attacks["AutoAttack"] = robustness.AutoAttack(args.norm, args.autoattack)
    return attacks


def transfer_of(args: Args, images: data.ImageData) -> dict[str, nn.Module]:
    """The network whose attacked images are tried too, by the name of its file, if there is one."""
    if args.transfer is None:
        if args.transfer_network is not None:
            raise ValueError("--transfer-network names the network in --transfer, got no --transfer; give its file")
        return {}
    return {args.transfer.name: load_network(args, args.transfer_network or args.network, args.transfer, images)}


def noise_of(args: Args, y: torch.Tensor, chosen: torch.Tensor) -> robustness.NoiseSource | None:
    """The corruptions in the folder that is named; None for drawn noise."""
    if args.cifar_c is not None and args.imagenet_c is not None:
        raise ValueError("corruptions are read from one folder, got --cifar-c and --imagenet-c; leave one of them out")
    if args.cifar_c is not None:
        return robustness.CifarCFiles(args.cifar_c, y, y.device, chosen)
    return None if args.imagenet_c is None else robustness.ImageNetCFiles(args.imagenet_c, y, y.device, chosen)


def require_no_other_report(folder: Path, model: nn.Module) -> None:
    """Raise if the folder holds the report of another model."""
    path = folder / "report.json"
    if path.exists():
        try:
            robustness.Report.from_json(path.read_text(encoding="utf-8")).require_same_model(model)
        except ValueError as error:
            raise ValueError(f"{path} would be overwritten: {error}; or name another folder with --out") from None


def measure(args: Args) -> None:
    """Measure the network, then write and print the report."""
    from dampode.training import Execution
    from dampode.training.processes import local_device

    eps, attacks = radii(args), attacks_of(args)
    images = data.load(args.data, root=args.root, layout=args.layout).to(local_device(args.device))
    model, form = at_lower_cost(load_network(args, args.network, args.model, images))
    require_no_other_report(args.out, model)
    chosen = choose(len(images.x_test), args.images)
    on_device = chosen.to(images.x_test.device)
    x, y = data.pixels(images.x_test[on_device]), images.y_test[on_device]
    partial = args.out / "report.part.json"
    with Execution().layout(model, x.device) as layout:  # the faster one
        report = robustness.evaluate(
            model,
            x.to(memory_format=layout),
            y,
            eps=eps,
            attacks=attacks,
            transfer=transfer_of(args, images),
            noise=noise_of(args, y, chosen),
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
    network = report.settings.get("network")
    figure.suptitle(f"{f'{network}: a' if network else 'A'}ccuracy on {report.n} images; bars: 95 % intervals")
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
