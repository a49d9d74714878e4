"""Measure the robustness of a saved network: python -m dampode.robustness --model FILE --network NAME --data NAME.

The network is built by name, depth and width, and filled from a file of dampode.models.save, or from a training
checkpoint (.pt). report.json, report.md and robustness.png are written under --out; an interrupted run goes on where
it was when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dampode import data, models, robustness, training

NETWORKS = {
    "resnet": models.resnet,
    "in_resnet": models.in_resnet,
    "lambda_in_resnet": models.lambda_in_resnet,
    "cnn": models.cnn,
}


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """The command line, or a list of flags."""
    parser = argparse.ArgumentParser("python -m dampode.robustness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="file of dampode.models.save, or a checkpoint (.pt)")
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--depth", type=int, default=110)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--data", default="cifar10", help="digits, cifar10, cifar100, or the path of an .npz file")
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of the CIFAR files")
    parser.add_argument("--images", type=int, help="measure on a random subset of the test images of this size")
    parser.add_argument("--eps", type=float, nargs="+", default=[1, 2, 4, 8], help="radii, in 1/255")
    parser.add_argument("--steps", type=int, default=20, help="steps of IFGSM and PGD")
    parser.add_argument("--alpha", type=float, default=2, help="step of IFGSM and PGD, in 1/255")
    parser.add_argument("--restarts", type=int, default=1, help="random starts of PGD")
    parser.add_argument("--cifar-c", type=Path, help="folder of the official CIFAR-C files; else noise is drawn")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(command)


def load(args: argparse.Namespace, images: data.ImageData) -> nn.Module:
    """The network, filled from its file."""
    mean, std = images.statistics()
    model: nn.Module = NETWORKS[args.network](
        args.depth, images.num_classes, width=args.width, in_channels=images.channels, mean=mean, std=std
    )
    if args.model.suffix == ".pt":
        state = training.load_checkpoint(args.model)["model"]
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{args.model} must be of the network named: {error}") from None
    else:
        models.load(model, args.model)
    return model.to(args.device).eval()


def measure(args: argparse.Namespace) -> None:
    """Measure and write."""
    training.require_writable(args.out)
    images = data.load(args.data, root=args.root).subset(test=args.images).to(args.device)
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
        noise=robustness.CifarCFiles(args.cifar_c, y, args.device) if args.cifar_c else None,
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
        measure(arguments(command))
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; give the same command again to go on") from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
