"""The measurement of a classifier on clean, noisy and attacked images, with sanity checks. It can be resumed."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from dampode._checks import as_seed, require_instance, require_positive_int
from dampode._files import only_writer, user_path
from dampode._identity import fingerprint
from dampode.robustness import sanity_checks
from dampode.robustness.attacks.settings import FGSM, IFGSM, PGD, Transfer, UniformNoise
from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import (
    PROBABILITIES,
    ProbabilitiesWarning,
    attacked_in_eval_mode,
    gives_probabilities,
    predict,
    predict_and_differentiate,
    same_logits,
)
from dampode.robustness.inputs import as_pixels
from dampode.robustness.modes import eval_mode, require_model
from dampode.robustness.noise.corruptions import require_severity
from dampode.robustness.noise.sources import DrawnNoise, NoiseSource
from dampode.robustness.norms import require_radius
from dampode.robustness.probes import probe_tasks
from dampode.robustness.processes import measuring_together
from dampode.robustness.progress_bar import progress_bar_of
from dampode.robustness.progress_file import ProgressFile
from dampode.robustness.random_blocks import blocks
from dampode.robustness.report import Report
from dampode.robustness.results import Column
from dampode.robustness.tasks import Setup

__all__ = ["ATTACKS", "RADII", "evaluate"]

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {"uniform noise": UniformNoise(), "FGSM": FGSM(), "IFGSM": IFGSM(keep="first"), "PGD": PGD(keep="first")}
)
"""The default attacks of `evaluate`: those of the paper, with a step of ε/4 and 20 steps. ``keep="first"`` gives the
same accuracies as "strongest" at a fraction of the cost. `PAPER` has the paper's own step of 2/255."""
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
"""The default radii of `evaluate`."""
IDENTIFYING_IMAGES = 20
"""Images whose logits a partial file keeps to recognize the model."""


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float] = RADII,
    attacks: Mapping[str, Attack] = ATTACKS,
    noises: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    noise: NoiseSource | None = None,
    seed: int = 0,
    batch_size: int = 500,
    partial: str | Path | None = None,
    progress: bool = False,
    together: bool = True,
) -> Report:
    """Measure a classifier on clean, noisy and attacked images, and make the sanity checks.

    Every pass is in the dtype of the pixels, float32 or float64, whatever autocast or torch's defaults say.

    Each image has random numbers of its own, so all models meet the same draws, whatever the batch size and the number
    of processes. The processes of `accelerate launch` or `torchrun` share the images, and each gets the whole report.

    The sanity checks need further measurements: twice the steps, more restarts, a search without gradients, a large ε.
    They are made for one iterated gradient attack among ``attacks``, on the first 1,000 images, at the radius where its
    accuracy is nearest to half of the clean accuracy; the search runs also at the largest radius. Without such an
    attack they are not made, and the report does not pass. The logits of the first 100 images are evaluated again, also
    in smaller batches, since they must be a function of the image.

    Args:
        model: classifier of pixels. It runs in eval mode; its modes and its parameters' gradients are left as they
            were.
        x: pixels in [0, 1], (N, C, H, W), on the model's device.
        y: labels, (N,).
        eps: radii of the attacks in pixel units, each in the norm of its attack: in [0, 1] for L∞.
        attacks: name -> attack with its settings.
        noises: names of corruptions; by default all that ``noise`` has.
        severities: severities of each corruption, 1 to 5.
        noise: source of the corrupted images; by default `DrawnNoise` from x.
        seed: seed of all draws.
        batch_size: images per forward pass.
        partial: file for the finished blocks. A call with the same model, data and settings resumes from it. The model
            is recognized by its printed form, parameters, buffers and logits, and the source of a transferred attack
            likewise.
        progress: whether to show a progress bar (tqdm), or lines where the error stream is no terminal.
        together: whether all launched processes call `evaluate` with the same arguments, each with the model and the
            images on its own device, and share the images. False if this process measures alone.

    Returns:
        The report, with per-image results.

    Raises:
        ValueError: an attack needs a gradient that the model does not have.
        ValueError: a pixel or a radius lies outside [0, 1], a radius, noise or severity occurs twice or is unknown,
            noises or attacks lack a strength, labels do not fit, a logit is not finite, the model gives one logit per
            image, or the partial file belongs to another measurement.
        TypeError: pixels are not float32 or float64, labels are not int64, or an attack is not an `Attack`.
        OSError: the partial file cannot be written, or another process writes it.

    Warns:
        UserWarning: the model is in training mode, or outputs look like probabilities.
    """
    seed, x = as_seed(seed), as_pixels(x)
    require_model(model)
    noise = DrawnNoise(x, seed) if noise is None else noise
    _require_images(x, noise)
    noises = noise.names if noises is None else noises
    _require_strengths(x, eps, attacks, noises, severities)
    for name in noises:
        for severity in severities:
            noise.require(name, severity)
    require_positive_int(batch_size, "batch_size")
    models = {"the model": model}
    models |= {f"the source of {name!r}": a.source for name, a in attacks.items() if isinstance(a, Transfer)}
    with ExitStack() as stack:
        processes = stack.enter_context(measuring_together(together))
        path = None if partial is None else user_path(partial)
        if path is not None:
            processes.from_main(lambda: stack.enter_context(only_writer(path)))
        if stack.enter_context(eval_mode(model)):
            warnings.warn("the model is in training mode; it is measured in eval mode", stacklevel=2)
        for each in models.values():
            stack.enter_context(eval_mode(each))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ProbabilitiesWarning)  # every attack would repeat the warning given below
        stack.enter_context(attacked_in_eval_mode(model, x, y))
        _require_gradients(model, x, y, attacks)
        settings = _describe(x, y, attacks, noise if noises else None, seed)
        probable = [name for name, each in models.items() if gives_probabilities(each, x)]
        if probable:
            settings["outputs"] = f"those of {' and '.join(probable)} {PROBABILITIES}"
            warnings.warn(f"the outputs of {' and '.join(probable)} {PROBABILITIES}", stacklevel=2)
        asked = (tuple(eps), tuple(noises), tuple(severities), settings)  # settings hold the hash of the images
        progress_file = ProgressFile(path, fingerprint(model, str(asked)), processes)
        _require_same_models(progress_file, models, x[:IDENTIFYING_IMAGES], batch_size)
        setup = Setup(model, x, y, seed, batch_size, progress_file, processes)
        shown = progress and processes.is_main
        columns = _measure(setup, eps, attacks, noise, [(n, s) for n in noises for s in severities], shown)
    return Report(len(x), tuple(columns), sanity_checks.check(columns), settings)


def _measure(
    setup: Setup,
    eps: Sequence[float],
    attacks: Mapping[str, Attack],
    noise: NoiseSource,
    noises: Sequence[tuple[str, int]],
    progress: bool,
) -> list[Column]:
    """The columns of the report, then those of the sanity checks."""
    tasks = [setup.clean()]
    tasks += [setup.noisy(noise, name, severity) for name, severity in noises]
    tasks += [setup.attacked(name, attack, e) for name, attack in attacks.items() for e in eps]
    with progress_bar_of(sum(len(blocks(task.images)) for task in tasks), "robustness", progress) as advance:
        columns = [setup.run(task, advance) for task in tasks]
    probes = probe_tasks(setup, columns, attacks)
    with progress_bar_of(sum(len(blocks(task.images)) for task in probes), "sanity checks", progress) as advance:
        return columns + [setup.run(task, advance) for task in probes]


def _describe(
    x: Tensor, y: Tensor, attacks: Mapping[str, Attack], noise: NoiseSource | None, seed: int
) -> dict[str, str]:
    """The settings of a report, in words."""
    return {
        "noise": f"{noise.title} ({noise})" if noise else "none",
        "attacks": ", ".join(f"{name}: {attack}" for name, attack in attacks.items()) or "none",
        "seed": str(seed),
        "precision": str(x.dtype).removeprefix("torch."),
        "images": f"{len(x)}, with their labels of SHA-256 {fingerprint(x, y)[:16]}",
    }


def _require_same_models(
    progress_file: ProgressFile, models: Mapping[str, nn.Module], x: Tensor, batch_size: int
) -> None:
    """Raise if a model's logits differ from those in the file. A fingerprint sees neither attributes nor code."""
    for name, model in models.items():
        z, key = predict(model, x, batch_size), f"logits of {name}"
        if key not in progress_file.finished:
            values = progress_file.processes.from_main(z.flatten().tolist)
            progress_file.add({key: {"logits": " ".join(f"{value:.17g}" for value in values)}})
        known = z.new_tensor([float(value) for value in str(progress_file.finished[key]["logits"]).split()])
        same = len(known) == z.numel() and bool(same_logits(z, known.view_as(z)).all())
        if not progress_file.processes.agree(same):
            where = "another process" if progress_file.path is None else str(progress_file.path)
            raise ValueError(
                f"{where} has a partial measurement of another model, data or settings: {name} gives other "
                "logits than it did then; delete the file, or name another"
            )


def _require_gradients(model: nn.Module, x: Tensor, y: Tensor, attacks: Mapping[str, Attack]) -> None:
    """Raise before anything is measured if an attack needs a gradient that its model does not have."""
    for name, attack in attacks.items():
        differentiated = model
        while isinstance(attack, Transfer):
            differentiated, attack = attack.source, attack.attack
        if not attack.traits.gradient_based:
            continue
        try:
            predict_and_differentiate(differentiated, x[:1], y[:1], 1)
        except ValueError as error:
            others = [
                n for n, a in attacks.items() if n != name and (a.traits.transferred or not a.traits.gradient_based)
            ]
            raise ValueError(
                f"the attack {name!r} needs a gradient: {error}. Pass attacks= with attacks that need no gradient of "
                f"this model (of these attacks: {', '.join(others) or 'none'}), such as Square, UniformNoise, or "
                "Transfer from a differentiable model"
            ) from error


def _require_strengths(
    x: Tensor, eps: Sequence[float], attacks: Mapping[str, Attack], noises: Sequence[str], severities: Sequence[int]
) -> None:
    """Raise unless radii, noises and severities are valid sequences without repetition."""
    for values, what in ((eps, "eps"), (noises, "noises"), (severities, "severities")):
        require_instance(values, Sequence, what, "give one value as [value]")
    require_instance(attacks, Mapping, "attacks", "give each attack a name")
    _require_attacks(attacks, noises)
    for e in eps:
        for norm in {attack.traits.norm for attack in attacks.values()} or {"linf"}:
            require_radius(e, norm, x)
    for severity in severities:
        require_severity(severity)
    for values, what in ((eps, "eps"), (noises, "noises"), (severities, "severities")):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} must not hold a value twice, got {list(values)}")
    if attacks and not eps:
        raise ValueError("eps must hold at least one radius for the attacks, got none; pass attacks={} for no attack")
    if noises and not severities:
        raise ValueError("severities must hold at least one for the noises, got none; pass noises=() for no noise")


def _require_attacks(attacks: Mapping[str, Attack], noises: Sequence[str]) -> None:
    """Raise unless every attack is an `Attack` and has a name of its own."""
    taken = {"clean", *noises} & set(attacks)
    if taken:
        raise ValueError(f"an attack must have a name of its own, got {sorted(taken)}; give it another name")
    for name, attack in attacks.items():
        require_instance(attack, Attack, f"the attack {name!r}", "see dampode.robustness.PGD and Attack")


def _require_images(x: Tensor, noise: NoiseSource) -> None:
    """Raise unless the images are (N, C, H, W), and the noise source has as many."""
    require_instance(noise, NoiseSource, "noise")
    if x.ndim != 4:
        raise ValueError(f"a report needs images (N, C, H, W), got shape {tuple(x.shape)}")
    if noise.n != len(x):
        raise ValueError(f"there must be as many noisy images as images, got {noise.n} and {len(x)}")
