"""The measurement of a classifier on clean, noisy and attacked images, with sanity checks. It can be resumed."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from torch import Tensor, nn

from dampode._checks import as_seed, require_positive_int
from dampode._files import only_writer, user_path
from dampode._identity import fingerprint, name_with_identity
from dampode.robustness import sanity_checks
from dampode.robustness.arguments import (
    Radii,
    radii_in,
    require_attacks,
    require_gradients,
    require_images,
    require_strengths,
    transferred,
)
from dampode.robustness.attacks.settings import FGSM, IFGSM, PGD, Transfer, UniformNoise
from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import (
    PROBABILITIES,
    ProbabilitiesWarning,
    attacked_in_eval_mode,
    gives_probabilities,
    predict,
    require_dependence,
    same_logits,
)
from dampode.robustness.inputs import as_pixels
from dampode.robustness.modes import eval_mode, require_model
from dampode.robustness.noise.sources import DrawnNoise, NoiseSource
from dampode.robustness.norms import Norm
from dampode.robustness.probes import PROBED_IMAGES, probe_tasks
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
NO_SOURCES: Mapping[str, nn.Module] = MappingProxyType({})
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
"""The default radii of `evaluate`."""
IDENTIFYING_IMAGES = 20
"""Images whose logits a partial file keeps to recognize the model. They also show a model of constant logits."""


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Radii = RADII,
    attacks: Mapping[str, Attack] = ATTACKS,
    transfer: Mapping[str, nn.Module] = NO_SOURCES,
    noises: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    noise: NoiseSource | None = None,
    seed: int = 0,
    batch_size: int = 500,
    probed_images: int = PROBED_IMAGES,
    partial: str | Path | None = None,
    progress: bool = False,
    together: bool = True,
) -> Report:
    """Measure a classifier on clean, noisy and attacked images, and make the sanity checks.

    Every pass is in the dtype of the pixels, float32 or float64, whatever autocast or torch's defaults say.

    Each image has random numbers of its own, so all models meet the same draws, whatever the batch size and the number
    of processes. The processes of `accelerate launch` or `torchrun` share the images, and each gets the whole report.

    The sanity checks need further measurements: twice the steps, more restarts, a search without gradients, a large ε.
    They are made for one iterated gradient attack among ``attacks``, on the first images, at the radius where its
    accuracy is nearest to half of the clean accuracy; the search runs also at the largest radius. Without such an
    attack they are not made, and the report does not pass. The logits of the first 100 images are evaluated again, also
    in smaller batches, since they must be a function of the image.

    Args:
        model: classifier of pixels. It runs in eval mode; its modes and its parameters' gradients are left as they
            were.
        x: pixels in [0, 1], (N, C, H, W), on the model's device.
        y: labels, (N,).
        eps: radii of the attacks in pixel units, each in the norm of its attack: in [0, 1] for L∞. For attacks in both
            norms, give {"linf": radii, "l2": radii}.
        attacks: name -> attack with its settings.
        transfer: name -> another classifier of the same images, whose PGD images the model meets too.
        noises: names of corruptions; by default all that ``noise`` has.
        severities: severities of each corruption, 1 to 5.
        noise: source of the corrupted images; by default `DrawnNoise` from x.
        seed: seed of all draws.
        batch_size: images per forward pass.
        probed_images: images of the sanity checks' further measurements, the first ones. Fewer images cost less, and
            the checks then allow more.
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
            image or the same logits for all of the first images, or the partial file belongs to another measurement.
        TypeError: pixels are not float32 or float64, labels are not int64, or an attack is not an `Attack`.
        OSError: the partial file cannot be written, or another process writes it.

    Warns:
        UserWarning: the model is in training mode, or outputs look like probabilities.
    """
    seed, x = as_seed(seed), as_pixels(x)
    require_model(model)
    noise = DrawnNoise(x, seed) if noise is None else noise
    require_images(x, noise)
    noises = noise.names if noises is None else noises
    require_attacks(attacks, transfer, noises)
    attacks = {**attacks, **transferred(transfer, attacks)}
    require_strengths(x, eps, attacks, noise, noises, severities)
    require_positive_int(batch_size, "batch_size")
    require_positive_int(probed_images, "probed_images")
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
        require_gradients(model, x, y, attacks)
        identity = fingerprint(model)
        settings = {"model": name_with_identity(model)}
        settings |= _describe(x, y, attacks, noise if noises else None, seed)
        probable = [name for name, each in models.items() if gives_probabilities(each, x)]
        if probable:
            settings["outputs"] = f"those of {' and '.join(probable)} {PROBABILITIES}"
            warnings.warn(f"the outputs of {' and '.join(probable)} {PROBABILITIES}", stacklevel=2)
        radii = [tuple(radii_in(eps, norm)) for norm in get_args(Norm)]
        # the settings hold the hash of the images
        asked = (radii, tuple(noises), tuple(severities), probed_images, settings)
        progress_file = ProgressFile(path, fingerprint(identity, str(asked)), processes)
        classes = _require_same_models(progress_file, models, x[:IDENTIFYING_IMAGES], batch_size)
        setup = Setup(model, x, y, classes, seed, batch_size, progress_file, processes)
        shown = progress and processes.is_main
        columns = _measure(
            setup, eps, attacks, noise, [(n, s) for n in noises for s in severities], probed_images, shown
        )
    return Report(len(x), tuple(columns), sanity_checks.check(columns), settings)


def _measure(
    setup: Setup,
    eps: Radii,
    attacks: Mapping[str, Attack],
    noise: NoiseSource,
    noises: Sequence[tuple[str, int]],
    probed_images: int,
    progress: bool,
) -> list[Column]:
    """The columns of the report, then those of the sanity checks."""
    tasks = [setup.clean()]
    tasks += [setup.noisy(noise, name, severity) for name, severity in noises]
    tasks += [
        setup.attacked(name, attack, e) for name, attack in attacks.items() for e in radii_in(eps, attack.traits.norm)
    ]
    with progress_bar_of(sum(len(blocks(task.images)) for task in tasks), "robustness", progress) as advance:
        columns = [setup.run(task, advance) for task in tasks]
    probes = probe_tasks(setup, columns, attacks, probed_images)
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
) -> int:
    """Raise if a model's logits differ from those in the file. A fingerprint sees neither attributes nor code.

    Returns:
        The number of classes of the first model.
    """
    classes = []
    for name, model in models.items():
        z, key = predict(model, x, batch_size), f"logits of {name}"
        require_dependence(name, x, z)
        classes.append(z.shape[1])
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
    return classes[0]
