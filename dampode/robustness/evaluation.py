"""A full measurement: clean, noise, attacks, and what the laws ask for; it can be interrupted and gone on with."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from dampode._checks import as_seed, require_instance, require_positive_int
from dampode._files import only_writer
from dampode._identity import fingerprint
from dampode.robustness import sanity_checks
from dampode.robustness.attacks.settings import FGSM, IFGSM, PGD, Attack, Square, Transfer, UniformNoise
from dampode.robustness.classifier import (
    PROBABILITIES,
    ProbabilitiesWarning,
    attackable,
    evaluating,
    gives_probabilities,
    predict,
    same_logits,
)
from dampode.robustness.noise.corruptions import SEVERITIES, require_length, require_noise
from dampode.robustness.noise.sources import Drawn, NoiseSource, blocks
from dampode.robustness.progress_file import Ledger
from dampode.robustness.report import Column, Report
from dampode.robustness.tasks import Measuring, Task

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {"uniform noise": UniformNoise(), "FGSM": FGSM(), "IFGSM": IFGSM(), "PGD": PGD()}
)
"""What `evaluate` runs where nothing else is asked for: the paper's attacks with α = 2/255 and 20 steps."""
RADII = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
"""Their radii where nothing else is asked for."""
PROBED = 1000
"""Images on which the laws' own measurements are made."""
UNMOVED = 100
"""Images on which ε = 0 is tried, and the model is asked again."""
KNOWN = 20
"""Images whose logits a partial file holds, to know the model by."""
LARGE = 0.5
"""A radius at which no classifier can be right: it reaches mid-gray from anywhere."""


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float] = RADII,
    attacks: Mapping[str, Attack] = ATTACKS,
    noises: Sequence[str] = tuple(SEVERITIES),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    noise: NoiseSource | None = None,
    seed: int = 0,
    batch_size: int = 500,
    partial: str | Path | None = None,
    progress: bool = False,
) -> Report:
    """Measure clean accuracy, noise and attacks, and check the laws that tell robustness from gradient masking.

    Random numbers are drawn by blocks of 1,000 images, so that models meet the same draws, whatever the batch size.
    The laws' own measurements (twice the steps, more restarts, a search without gradients, a large ε) are made on the
    first 1,000 images, at the radius where the attack leaves nearest to half of the clean accuracy (the search also at
    the largest), for an iterated attack among ``attacks``; without one they are left out, and the report says so. On
    the first 100 the model is asked again, and in smaller batches: its logits have to be a function of the image.

    Args:
        model: classifier of pixels; its mode and its parameters' gradients are as before afterwards.
        x: pixels in [0, 1], (N, C, H, W), on the model's device.
        y: labels, (N,).
        eps: radii of the attacks in pixel units, in [0, 1].
        attacks: name -> attack with its settings.
        noises: kinds of noise, keys of ``SEVERITIES``.
        severities: severities of each, 1 to 5.
        noise: where noisy images come from; `Drawn` from x by default.
        seed: seed of all draws.
        batch_size: images a forward pass.
        partial: file that is written as blocks are finished, its folder made; a call with the same model, data and
            settings goes on from it. A model is known by its printed form, parameters, buffers and logits, and by
            those of the sources of transferred attacks.
        progress: whether to show a progress bar (tqdm).

    Returns:
        The report, per-example results included.

    Raises:
        ValueError: pixels outside [0, 1], a radius outside [0, 1] or twice, labels that do not fit, an unknown noise
            or severity, noises without severities, a logit that is not finite, one logit an image, or a partial
            file of another measurement.
        TypeError: pixels are not float32 or float64, labels not int64, or an attack is no `Attack`.
        OSError: the partial file cannot be written, or another process writes it.
    """
    seed = as_seed(seed)
    noise = Drawn(x, seed) if noise is None else noise
    _check(eps, attacks, noises, severities, noise, x, batch_size)
    if any(module.training for module in model.modules()):
        warnings.warn("the model is in training mode; it is measured in eval mode, and put back", stacklevel=2)
    models = {"the model": model}
    models |= {f"the source of {name!r}": a.source for name, a in attacks.items() if isinstance(a, Transfer)}
    with ExitStack() as stack:
        if partial is not None:
            stack.enter_context(only_writer(Path(partial)))
        for each in models.values():
            stack.enter_context(evaluating(each))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ProbabilitiesWarning)  # every attack would say what is said once below
        stack.enter_context(attackable(model, x, y))
        settings = {
            "noise": f"{noise.title} ({noise})" if noises else "none",
            "attacks": ", ".join(f"{name}: {attack}" for name, attack in attacks.items()) or "none",
            "seed": str(seed),
            "images": f"{len(x)}, with their labels of SHA-256 {fingerprint(x, y)[:16]}",
        }
        probable = [name for name, each in models.items() if gives_probabilities(each, x)]
        if probable:
            settings["outputs"] = f"those of {' and '.join(probable)} {PROBABILITIES}"
            warnings.warn(f"the outputs of {' and '.join(probable)} {PROBABILITIES}", stacklevel=2)
        asked = (tuple(eps), tuple(noises), tuple(severities), settings)  # the images' hash among them
        ledger = Ledger(None if partial is None else Path(partial), fingerprint(model, str(asked)))
        _require_known(ledger, models, x[:KNOWN], batch_size)
        measuring = Measuring(model, x, y, seed, batch_size, ledger)
        tasks = [measuring.clean()]
        tasks += [measuring.noisy(noise, name, severity) for name in noises for severity in severities]
        tasks += [measuring.attacked(name, attack, e) for name, attack in attacks.items() for e in eps]
        with _bar(progress, len(tasks) * len(blocks(len(x)))) as step:
            columns = [measuring.column(task, step) for task in tasks]
        probes = _probes(measuring, columns, attacks)
        with _bar(progress, sum(len(blocks(task.images)) for task in probes), "laws") as step:
            columns += [measuring.column(task, step) for task in probes]
    return Report(len(x), tuple(columns), sanity_checks.check(columns), settings)


def _require_known(ledger: Ledger, models: Mapping[str, nn.Module], x: Tensor, batch_size: int) -> None:
    """Raise where a model's logits are not those in the ledger: a fingerprint sees no attribute and no code."""
    for name, model in models.items():
        z, key = predict(model, x, batch_size), f"logits of {name}"
        if key not in ledger.finished:
            ledger.add(key, {"logits": " ".join(f"{value:.17g}" for value in z.flatten().tolist())})
        known = z.new_tensor([float(value) for value in str(ledger.finished[key]["logits"]).split()])
        if len(known) != z.numel() or not bool(same_logits(z, known.view_as(z)).all()):
            raise ValueError(
                f"{ledger.path} is a partial measurement of another model, data or settings: {name} gives other logits "
                "than it did then; delete the file, or name another"
            )


def _probes(measuring: Measuring, columns: Sequence[Column], attacks: Mapping[str, Attack]) -> list[Task]:
    """What the laws want to know beyond the columns."""
    tasks = [measuring.repeated(UNMOVED)]
    tasks += [measuring.gradient(PROBED)] if attacks else []
    tasks += [measuring.unmoved(name, attack, UNMOVED) for name, attack in attacks.items()]
    iterated = {name: a for name, a in attacks.items() if isinstance(a, IFGSM | PGD)}
    if not iterated:
        return tasks
    name = next((k for k, a in iterated.items() if isinstance(a, PGD)), next(iter(iterated)))
    attack = iterated[name]
    clean, curve = columns[0].accuracy, [c for c in columns if c.group == "attack" and c.name == name]
    telling = min(curve, key=lambda c: abs(c.accuracy - clean / 2)).strength  # where a change can show most
    largest = max(c.strength for c in curve)  # where gradient masking can
    longer, far = replace(attack, steps=2 * attack.steps), replace(attack, alpha=LARGE / 8, keep="first")
    tasks += [
        measuring.probe(f"{name} with twice the steps", "more steps", longer, telling, name, PROBED),
        measuring.probe(f"{name} at a large ε", "large radius", far, LARGE, name, PROBED),
    ]
    if isinstance(attack, PGD):
        more = replace(attack, restarts=attack.restarts + 4)
        tasks.append(measuring.probe(f"{name} with 4 more restarts", "more restarts", more, telling, name, PROBED))
    search = "square search"
    return tasks + [measuring.probe(search, "Square", Square(), e, search, PROBED) for e in sorted({telling, largest})]


def _check(
    eps: Sequence[float],
    attacks: Mapping[str, Attack],
    noises: Sequence[str],
    severities: Sequence[int],
    noise: NoiseSource,
    x: Tensor,
    batch_size: int,
) -> None:
    for values, what in ((eps, "eps"), (noises, "noises"), (severities, "severities")):
        require_instance(values, Sequence, what, "give one value as [value]")
    require_instance(attacks, Mapping, "attacks", "give each attack a name")
    require_instance(noise, NoiseSource, "noise")
    for e in eps:
        require_length(e, "eps")
    if attacks and not eps:
        raise ValueError("eps must hold at least one radius for the attacks, got none; pass attacks={} for no attack")
    if noises and not severities:
        raise ValueError("severities must hold at least one for the noises, got none; pass noises=() for no noise")
    if x.ndim != 4:
        raise ValueError(f"a report needs images (N, C, H, W), got shape {tuple(x.shape)}")
    taken = {"clean", *noises} & set(attacks)
    if taken:
        raise ValueError(f"an attack must have a name of its own, got {sorted(taken)}")
    for name, attack in attacks.items():
        require_instance(attack, Attack, f"the attack {name!r}", "see dampode.robustness.PGD and its siblings")
    for name in noises:
        for severity in severities:
            require_noise(name, severity)
    for values, what in ((eps, "eps"), (noises, "noises"), (severities, "severities")):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} must hold none twice, got {list(values)}")
    if noise.n != len(x):
        raise ValueError(f"the noisy images must be as many as the images: {noise.n} and {len(x)}")
    require_positive_int(batch_size, "batch_size")


@contextmanager
def _bar(progress: bool, total: int, label: str = "robustness") -> Iterator[Callable[[], None]]:
    """A function that marks a block as done, on a progress bar where one is wanted."""
    if not progress:
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError("the progress bar is tqdm's: install dampode[train], or pass progress=False") from None
    with tqdm(total=total, desc=label, unit="block", mininterval=0.5) as bar:

        def step() -> None:
            bar.update()

        yield step
