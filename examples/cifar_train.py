"""Train damped and undamped networks on images and measure what damping does.

    python examples/cifar_train.py                                  scikit-learn's digits, about two minutes
    python examples/cifar_train.py --data cifar10 --root data --download --depth 110 --epochs 160
    python examples/cifar_train.py --data cifar10 --recipe cifar10 --precision bf16 --compile blocks --step-graph
    python examples/cifar_train.py --data my_images.npz             x_train, y_train, x_test, y_test
    torchrun --nproc-per-node 2 examples/cifar_train.py             or accelerate launch: one GPU or CPU per process

On the digits damping does not help. The residual and the damped networks fit equally well, noise hardly harms them, and
under FGSM In-ResNet differs from the residual network within noise, and λ-In-ResNet is less robust. The digits are too
easy, and the networks too shallow, for what the paper reports: that needs CIFAR-10 and 110 layers
(docs/damping_and_robustness.md).

Every model is trained with the same recipe. It is then measured on clean images, under Gaussian noise at the five
severities of CIFAR-C, and under FGSM. The script prints a table and says which differences are within noise. It writes
report.json, table.md, checkpoints, logs and two figures to --out. An interrupted run resumes with --resume. All models
and seeds share the images, which lie on the device.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
import tyro
from torch import Tensor, nn

import dampode
from dampode import data, models, plots, robustness, training
from dampode._checks import as_seed
from dampode._files import is_there, only_writer, user_path
from dampode.training.execution import Compile, Precision
from dampode.training.processes import is_main, local_device

Model = Literal["resnet", "in_resnet", "lambda_in_resnet", "cnn"]
DEEPEST = 10_000
FILES = ("report.json", "table.md", "robustness.png", "coefficients.png")
COLORS: dict[str, str] = {
    "resnet": "tab:blue",
    "in_resnet": "tab:orange",
    "lambda_in_resnet": "tab:green",
    "cnn": "tab:red",
}
"""Of the networks, the same in both figures."""
AUGMENTATIONS = {
    "data": None,
    "none": data.Augmentation(pad=0, flip=False),
    "zero": data.Augmentation(),
    "reflect": data.Augmentation(2, mode="reflect"),
}
RECIPES = {
    "small": training.Recipe(epochs=20),
    "cifar10": training.Recipe.cifar10(),
    "cifar100": training.Recipe.cifar100(),
    "resnext": training.Recipe.resnext(),
}


@dataclass(frozen=True)
class Args:
    """Train the named networks with one recipe and compare them."""

    models: tuple[Model, ...] = ("resnet", "in_resnet", "lambda_in_resnet", "cnn")
    """networks to train"""
    data: str = "digits"
    """digits, cifar10, cifar100, or the path of an .npz file, of SVHN's train_32x32.mat or of a folder of images"""
    root: Path = Path("data")
    """folder of the CIFAR files"""
    download: bool = False
    """let torchvision download CIFAR"""
    layout: Literal["NHWC", "NCHW"] | None = None
    """axes of the images in an .npz file, if the file does not show them"""
    size: int | None = None
    """side of the images of a folder, whose middle is cropped; by default they are kept"""
    out: Path = Path("runs/digits")
    """folder of the report, figures and checkpoints"""
    depth: int = 20
    """weighted layers, 6n + 2"""
    width: int = 16
    """channels of the first stage"""
    recipe: Literal["small", "cifar10", "cifar100", "resnext"] = "small"
    """one of the paper's recipes, or small: its CIFAR-10 recipe in 20 epochs; the next three flags change it"""
    epochs: int | None = None
    """passes over the training images"""
    batch_size: int | None = None
    """images per step, over all processes"""
    lr: float | None = None
    """learning rate at the start"""
    milestones: tuple[float, ...] | None = None
    """shares of the epochs after which the learning rate is divided by 10; by default 0.5 and 0.75"""
    augmentation: Literal["data", "none", "zero", "reflect"] = "data"
    """data: the data set's own, which is none for an .npz file; zero: the paper's, pad 4 with zeros, crop and flip;
    reflect: that of the authors' code, reflecting 2 pixels"""
    seeds: tuple[int, ...] = (0,)
    """one run of every model for each seed"""
    low: float = 0.2
    """smallest λ at the start"""
    high: float = 0.25
    """largest λ at the start"""
    decay_damping: bool = True
    """whether weight decay acts on λ too, as in the authors' code"""
    eps: tuple[float, ...] = (8, 16, 24, 32)
    """radii of FGSM, in 1/255"""
    train_images: int | None = None
    """train on a random subset of this size"""
    test_images: int | None = None
    """test on a random subset of this size"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda, ..."""
    precision: Precision = "fp32"
    """fp32, or autocast to bf16 or fp16"""
    compile: Compile = "off"
    """what torch.compile compiles, or its mode"""
    channels_last: bool | None = None
    """memory layout; by default the faster one"""
    step_graph: bool = False
    """record training steps as CUDA graphs"""
    checkpoint_every: int | None = None
    """steps between checkpoints within an epoch"""
    tensorboard: bool = False
    """write TensorBoard events to the folder of the logs"""
    resume: bool = False
    """continue from the checkpoints under --out"""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies in [0, 1] over n images: clean, under noise at severities 1 to 5, and (ε, accuracy) under FGSM."""

    n: int
    clean: float
    gaussian_noise: list[float]
    fgsm: list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """The results of one trained model."""

    model: str
    seed: int
    diverged: bool
    """whether the loss, or a logit of the trained network, is not finite"""
    at_chance: bool
    final_loss: float | None
    """None if it is not finite"""
    coefficients: list[float]
    report: Accuracies | None
    """None if the network diverged: there is nothing to measure"""


def build(name: Model, images: data.ImageData, args: Args) -> nn.Module:
    channel_mean, channel_std = images.statistics()
    common: dict[str, Any] = {
        "width": args.width,
        "in_channels": images.channels,
        "mean": channel_mean,
        "std": channel_std,
    }
    if name in ("in_resnet", "lambda_in_resnet"):
        common |= {"low": args.low, "high": args.high}
    builder: Callable[..., nn.Module] = getattr(models, name)
    return builder(args.depth, images.num_classes, **common)


def check(images: data.ImageData, args: Args) -> None:
    """Refuse settings that would otherwise fail after hours of training."""
    for flag, values in (("models", args.models), ("seeds", args.seeds), ("eps", args.eps)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"--{flag} needs at least one value and none twice, got {list(values)}")
    for seed in args.seeds:
        as_seed(seed)
    if not all(0 <= e <= 255 for e in args.eps):
        raise ValueError(f"--eps must be at least 0 and at most 255, got {list(args.eps)}; its unit is 1/255")
    if args.low < 0:
        raise ValueError(f"--low must be at least 0, got {args.low}")
    recipe(args)
    if args.depth < 14 and {"in_resnet", "lambda_in_resnet"} & set(args.models):
        raise ValueError(f"--depth must be at least 14 for a damped layer to exist, got {args.depth}")
    if args.depth > DEEPEST:
        raise ValueError(
            f"--depth must be at most {DEEPEST}, got {args.depth}; the paper's deepest network has 164 layers"
        )
    for path in (args.out / name for name in FILES):
        if path.is_dir():
            raise OSError(f"the file to write must be no folder, got the folder {path}; choose another --out")
    for name in args.models:
        try:
            build(name, images, args)
        except RuntimeError as error:
            raise ValueError(
                f"{name} must fit into memory, got --depth {args.depth} --width {args.width}: {error}"
            ) from None
        for path in (checkpoint(name, seed, args) for seed in args.seeds):
            if path.is_dir():
                raise OSError(f"a checkpoint must be a file, got the folder {path}; choose another --out")
            if is_there(path) and not args.resume:
                raise ValueError(f"{path} is there already: continue from it with --resume, or choose another --out")


def recipe(args: Args) -> training.Recipe:
    given: dict[str, Any] = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "milestones": args.milestones,
    }
    return replace(
        RECIPES[args.recipe],
        **{key: value for key, value in given.items() if value is not None},
        decay_damping=args.decay_damping,
        augmentation=AUGMENTATIONS[args.augmentation],
        micro_batches=int(os.environ.get("WORLD_SIZE", "1")),
    )


def checkpoint(name: Model, seed: int, args: Args) -> Path:
    return args.out / "checkpoints" / f"{name}-seed{seed}.pt"


def run(name: Model, seed: int, images: data.ImageData, args: Args) -> Run:
    torch.manual_seed(seed)
    model = build(name, images, args).to(images.x_train.device)
    history = training.fit(
        model,
        images,
        recipe(args),
        seed=seed,
        checkpoint=checkpoint(name, seed, args),
        resume=args.resume,
        identity={"depth": args.depth, "width": args.width, "low": args.low, "high": args.high},
        label=f"{name}, seed {seed}",
        execution=training.Execution(args.precision, args.compile, args.channels_last, args.step_graph),
        checkpoint_every=args.checkpoint_every,
        logs=args.out / "logs" / f"{name}-seed{seed}",
        tensorboard=args.tensorboard,
    )
    report = None if history.diverged else measured(model.eval(), images, args.eps, seed)
    loss = None if history.diverged else history.loss[-1]
    if is_main():
        outcome = "diverged" if report is None else f"{100 * report.clean:.1f} % of the clean test images"
        print(f"{name}, seed {seed}: {outcome}", flush=True)
    if report is None:
        return Run(name, seed, True, history.at_chance, loss, [], None)
    coefficients = models.coefficients(model) if name in ("in_resnet", "lambda_in_resnet") else []
    return Run(name, seed, False, history.at_chance, loss, coefficients, report)


def measured(model: nn.Module, images: data.ImageData, radii: Sequence[float], seed: int) -> Accuracies | None:
    """The accuracies of a network, or None if it gives logits that are not finite."""
    x = data.pixels(images.x_test)
    with torch.no_grad():
        finite = all(bool(model(part).isfinite().all()) for part in x.split(500))
    return measure(model, x, images.y_test, radii, seed) if finite else None


def sound(name: str, runs: list[Run]) -> list[tuple[Accuracies, list[float]]]:
    """Accuracies and λ_n of a model's runs that did not fail; if all runs are stuck at chance, of those runs."""
    finite = [(r, r.report) for r in runs if r.model == name and r.report is not None]
    chosen = [pair for pair in finite if not pair[0].at_chance] or finite
    return [(report, r.coefficients) for r, report in chosen]


def measure(model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float], seed: int) -> Accuracies:
    eps, fgsm = [e / 255 for e in radii], {"FGSM": robustness.FGSM()}
    found = robustness.evaluate(model, x, y, eps=eps, attacks=fgsm, noises=["gaussian_noise"], seed=seed)
    noise = [found.column("gaussian_noise", severity).accuracy for severity in range(1, 6)]
    return Accuracies(found.n, found.clean, noise, [(e, found.column("FGSM", e).accuracy) for e in eps])


def headings(args: Args) -> list[str]:
    """The names of `accuracies`."""
    return ["clean", *(f"noise {s}" for s in range(1, 6)), *(f"FGSM {e:g}/255" for e in args.eps)]


def accuracies(report: Accuracies) -> list[float]:
    """All accuracies of a network in one row."""
    return [report.clean, *report.gaussian_noise, *(accuracy for _, accuracy in report.fgsm)]


def table(runs: list[Run], args: Args) -> str:
    """Markdown, one row per model: accuracies in %, mean ± SD over several seeds; failed runs are only counted."""

    def cell(values: Sequence[float]) -> str:
        text = f"{100 * mean(values):.1f}"
        return f"{text} ± {100 * stdev(values):.1f}" if len(values) > 1 else text

    head = ["model", *headings(args)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in args.models:
        of_model = [r for r in runs if r.model == name]
        reports = [report for report, _ in sound(name, runs)]
        diverged, at_chance = sum(r.diverged for r in of_model), sum(r.at_chance and not r.diverged for r in of_model)
        notes = [f"{n} {what}" for n, what in ((diverged, "diverged"), (at_chance, "stuck at chance")) if n]
        title = f"{name} ({', '.join(notes)})" if notes else name
        columns = list(zip(*map(accuracies, reports), strict=True)) or [()] * (len(head) - 1)
        lines.append(f"| {title} | " + " | ".join(cell(c) if c else "-" for c in columns) + " |")
    return "\n".join(lines)


def verdict(runs: list[Run], args: Args) -> str:
    """Every network against the residual one, in points: the difference with its 95 % interval.

    A difference whose interval contains 0 is within noise. A network that fits less well looks robust, so the clean
    accuracy stands beside.
    """
    plain = [report for report, _ in sound("resnet", runs)]
    lines = []
    for name in args.models:
        others = [report for report, _ in sound(name, runs)]
        if plain and others and name != "resnet":
            pairs = zip(
                zip(*map(accuracies, others), strict=True), zip(*map(accuracies, plain), strict=True), strict=True
            )
            said = (
                f"{heading} {difference(mean(ours), mean(theirs), plain[0].n)}"
                for heading, (ours, theirs) in zip(headings(args), pairs, strict=True)
                if not heading.startswith("noise") or heading == "noise 5"
            )
            lines.append(f"{name} minus resnet, in points: {'; '.join(said)}")
    return "\n".join(lines)


def difference(p: float, q: float, n: int) -> str:
    """The difference of two accuracies over n images in points, with Newcombe's 95 % interval."""
    (p_low, p_high), (q_low, q_high) = plots.wilson(p, n), plots.wilson(q, n)
    low = p - q - ((p - p_low) ** 2 + (q_high - q) ** 2) ** 0.5
    high = p - q + ((p_high - p) ** 2 + (q - q_low) ** 2) ** 0.5
    noise = ", within noise" if low <= 0 <= high else ""
    return f"{100 * (p - q):+.1f} ({100 * low:+.1f} to {100 * high:+.1f}{noise})"


def figures(runs: list[Run], args: Args) -> None:
    shown: dict[str, list[tuple[Accuracies, list[float]]]] = {
        name: of_model for name in args.models if (of_model := sound(name, runs))
    }
    if not shown:
        return
    images = next(iter(shown.values()))[0][0].n
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    noise = {name: [(r.clean, *r.gaussian_noise) for r, _ in of_model] for name, of_model in shown.items()}
    attack = {name: [(r.clean, *(a for _, a in r.fgsm)) for r, _ in of_model] for name, of_model in shown.items()}
    for ax in (left, right):
        ax.set_prop_cycle(color=[COLORS[name] for name in shown])
    plots.accuracy_curves(left, range(6), noise, "Gaussian noise, severity (0: clean)", images)
    plots.accuracy_curves(right, [0, *args.eps], attack, "FGSM, ε in 1/255 (0: clean)", images)
    left.set(ylim=(0, 102), title="Gaussian noise")
    right.set(ylabel="", title="FGSM, an attack of one step")
    left.get_legend().remove()
    figure.suptitle(f"Accuracy on {images} test images; bars: 95 % intervals")
    figure.savefig(args.out / "robustness.png", dpi=150)
    plt.close(figure)

    learned = {name: [lam for _, lam in of_model] for name, of_model in shown.items() if of_model[0][1]}
    if learned:
        figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
        ax.set_prop_cycle(color=[COLORS[name] for name in learned])
        plots.coefficients_by_layer(ax, learned)
        figure.savefig(args.out / "coefficients.png", dpi=150)
        plt.close(figure)


def main(args: Args) -> None:
    args = replace(args, root=user_path(args.root), out=user_path(args.out))
    with ExitStack() as stack:
        if is_main():
            stack.enter_context(only_writer(args.out / "report.json"))
        images = data.load(args.data, root=args.root, download=args.download, layout=args.layout, size=args.size)
        images = images.subset(args.train_images, args.test_images).to(local_device(args.device))
        check(images, args)
        if is_main():
            print(f"{images.name}: {len(images.x_train)} training and {len(images.x_test)} test images")
        runs = []
        try:
            for seed in args.seeds:
                runs += [run(name, seed, images, args) for name in args.models]
        except KeyboardInterrupt:
            raise SystemExit(
                f"\ninterrupted; every checkpoint under {args.out} is whole: continue with --resume"
            ) from None
        if is_main():
            write(runs, images, args)


def write(runs: list[Run], images: data.ImageData, args: Args) -> None:
    text = table(runs, args)
    print(f"\naccuracy (%), {len(images.x_test)} test images, {len(args.seeds)} seed(s)\n\n{text}\n")
    print(verdict(runs, args))
    settings = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(replace(args, resume=False)).items()}
    report = {
        "command": shlex.join(["python", "examples/cifar_train.py", *sys.argv[1:]]),
        "settings": settings,
        "recipe": asdict(recipe(args)),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "dampode": dampode.__version__},
        "machine": {
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "runs": [asdict(r) for r in runs],
    }
    (args.out / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    (args.out / "table.md").write_text(text + "\n")
    figures(runs, args)
    print(f"written under {args.out}: {', '.join(sorted(path.name for path in args.out.glob('[!.]*')))}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ValueError, TypeError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
