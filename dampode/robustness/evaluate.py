"""A full measurement: clean, noise, attacks, and what the laws ask for; it can be interrupted and gone on with."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_nonnegative, require_positive_int
from dampode.robustness import laws
from dampode.robustness.classifier import evaluating, predict, predict_and_differentiate, require_attackable
from dampode.robustness.ledger import Ledger, fingerprint
from dampode.robustness.noise import SEVERITIES, require_noise
from dampode.robustness.report import Column, Report, pack, unpack
from dampode.robustness.sources import Drawn, NoiseSource, blocks, stream
from dampode.robustness.specs import FGSM, IFGSM, PGD, Attack, Square, UniformNoise

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {"uniform noise": UniformNoise(), "FGSM": FGSM(), "IFGSM": IFGSM(), "PGD": PGD()}
)
"""What `evaluate` runs where nothing else is asked for: the paper's attacks with α = 2/255 and 20 steps."""
PROBED = 1000
"""Images on which the laws' own measurements are made."""
LARGE = 0.5
"""A radius at which no classifier can be right: it reaches mid-gray from anywhere."""


@dataclass(frozen=True)
class _Task:
    """A column to be measured on the first ``images`` images; ``measure`` takes a block and its index."""

    column: Column
    images: int
    measure: Callable[[slice, int], tuple[Tensor, float]]


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Sequence[float],
    attacks: Mapping[str, Attack] = ATTACKS,
    noises: Sequence[str] = tuple(SEVERITIES),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    noise: NoiseSource | None = None,
    seed: int = 0,
    batch_size: int = 500,
    partial: str | Path | None = None,
    progress: bool = False,
) -> Report:
    """Measure clean accuracy, noise and attacks, and check the laws that tell robustness from hidden gradients.

    Random numbers are drawn by blocks of 1,000 images, so that models meet the same draws, whatever the batch size.
    The laws' own measurements (twice the steps, more restarts, a search without gradients, a large ε) are made on the
    first 1,000 images, at the radius where the attack leaves nearest to half of the clean accuracy (the search also at
    the largest), for an iterated attack among ``attacks``; without one they are left out, and the report says so.

    Args:
        model: classifier of pixels; its mode and its parameters' gradients are as before afterwards.
        x: pixels in [0, 1], (N, C, H, W), on the model's device.
        y: labels, (N,).
        eps: radii of the attacks, >= 0 in pixel units.
        attacks: name -> attack with its settings.
        noises: kinds of noise, keys of ``SEVERITIES``.
        severities: severities of each, 1 to 5.
        noise: where noisy images come from; `Drawn` from x by default.
        seed: seed of all draws.
        batch_size: images a forward pass.
        partial: file that is written as blocks are finished; a call with the same model, data and settings goes on
            from it.
        progress: whether to show a progress bar (tqdm).

    Returns:
        The report, per-example results included.

    Raises:
        ValueError: pixels outside [0, 1], a radius that is negative or comes twice, labels that do not fit, an
            unknown noise or severity, a logit that is not finite, or a partial file of another measurement.
        TypeError: pixels are not float32 or float64, labels not int64, or an attack is no `Attack`.
    """
    noise = Drawn(x, seed) if noise is None else noise
    _check(eps, attacks, noises, severities, noise, x, batch_size)
    if any(module.training for module in model.modules()):
        warnings.warn("the model is in training mode; it is measured in eval mode, and put back", stacklevel=2)
    with evaluating(model):
        require_attackable(model, x, y)
        settings = {
            "noise": f"{noise.title} ({noise})" if noises else "none",
            "attacks": ", ".join(f"{name}: {attack}" for name, attack in attacks.items()) or "none",
            "seed": str(seed),
        }
        asked = (tuple(eps), tuple(noises), tuple(severities), settings)
        ledger = Ledger(None if partial is None else Path(partial), fingerprint(model, x, y, str(asked)))
        run = _Run(model, x, y, seed, batch_size, ledger)
        tasks = [run.clean()]
        tasks += [run.noisy(noise, name, severity) for name in noises for severity in severities]
        tasks += [run.attacked(name, attack, e) for name, attack in attacks.items() for e in eps]
        with _bar(progress, len(tasks) * len(blocks(len(x)))) as step:
            columns = [run.column(task, step) for task in tasks]
        probes = run.probes(columns, attacks)
        with _bar(progress, sum(len(blocks(task.images)) for task in probes), "laws") as step:
            columns += [run.column(task, step) for task in probes]
    return Report(len(x), tuple(columns), laws.check(columns), settings)


@dataclass(frozen=True)
class _Run:
    """What every column is measured with."""

    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    ledger: Ledger

    def column(self, task: _Task, step: Callable[[], None]) -> Column:
        """Measure a task block by block, but for the blocks that are finished."""
        column, parts, excess = task.column, [], 0.0
        for index, block in enumerate(blocks(task.images)):
            key = f"{column.group}/{column.name}/{column.strength!r}/{index}"
            if key not in self.ledger.finished:
                flags, beyond = task.measure(block, index)
                self.ledger.add(key, {"correct": pack(flags), "excess": beyond})
            done = self.ledger.finished[key]
            parts.append(unpack(str(done["correct"]), block.stop - block.start))
            excess = max(excess, float(done["excess"]))
            step()
        return replace(column, correct=torch.cat(parts), excess=excess)

    def clean(self) -> _Task:
        return _task("clean", "clean", "clean", 0.0, len(self.x), lambda b, i: (self._right(self.x[b], b), 0.0))

    def noisy(self, source: NoiseSource, name: str, severity: int) -> _Task:
        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            return self._right(source.block(name, severity, index), block), 0.0

        return _task("noise", name, name, float(severity), len(self.x), measure)

    def attacked(self, name: str, attack: Attack, eps: float, group: str = "attack", kind: str = "") -> _Task:
        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            moved = self._move(attack, name, eps, block, index)
            beyond = [(moved - self.x[block]).abs().max() - attack.reach * eps, -moved.min(), moved.max() - 1]
            return self._right(moved, block), max(0.0, *(b.item() for b in beyond))

        images = len(self.x) if group == "attack" else min(PROBED, len(self.x))
        return _task(group, name, kind or type(attack).__name__, float(eps), images, measure)

    def unmoved(self, name: str, attack: Attack) -> _Task:
        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            moved = self._move(attack, name, 0.0, block, index)
            return (moved == self.x[block]).flatten(1).all(1), 0.0

        return _task("probe", f"{name} at 0", "zero", 0.0, min(PROBED // 10, len(self.x)), measure)

    def gradient(self) -> _Task:
        def measure(block: slice, index: int) -> tuple[Tensor, float]:
            _, gradient = predict_and_differentiate(self.model, self.x[block], self.y[block], self.batch_size)
            return (gradient != 0).flatten(1).any(1), 0.0

        return _task("probe", "gradient", "gradient", 0.0, min(PROBED, len(self.x)), measure)

    def probes(self, columns: list[Column], attacks: Mapping[str, Attack]) -> list[_Task]:
        """What the laws want to know beyond the columns."""
        tasks = [self.gradient()] if attacks else []
        tasks += [self.unmoved(name, attack) for name, attack in attacks.items()]
        iterated = {name: a for name, a in attacks.items() if isinstance(a, IFGSM | PGD)}
        if not iterated:
            return tasks
        name = next((k for k, a in iterated.items() if isinstance(a, PGD)), next(iter(iterated)))
        attack = iterated[name]
        clean, curve = columns[0].accuracy, [c for c in columns if c.group == "attack" and c.name == name]
        telling = min(curve, key=lambda c: abs(c.accuracy - clean / 2)).strength  # where a change can show most
        largest = max(c.strength for c in curve)  # where hidden gradients can
        extra: list[tuple[str, str, Attack, float]] = [
            (f"{name} with twice the steps", "more steps", replace(attack, steps=2 * attack.steps), telling),
            *(("square search", "Square", Square(), e) for e in sorted({telling, largest})),
            (f"{name} at a large ε", "large radius", replace(attack, alpha=LARGE / 8, keep="first"), LARGE),
        ]
        if isinstance(attack, PGD):
            more = replace(attack, restarts=attack.restarts + 4)
            extra.append((f"{name} with 4 more restarts", "more restarts", more, telling))
        return tasks + [self.attacked(n, a, e, "probe", kind) for n, kind, a, e in extra]

    def _move(self, attack: Attack, name: str, eps: float, block: slice, index: int) -> Tensor:
        generator = stream(self.x.device, self.seed, name, float(eps), index)
        return attack(self.model, self.x[block], self.y[block], eps, generator, self.batch_size)

    def _right(self, x: Tensor, block: slice) -> Tensor:
        return predict(self.model, x, self.batch_size).argmax(1) == self.y[block]


def _task(
    group: str,
    name: str,
    kind: str,
    strength: float,
    images: int,
    measure: Callable[[slice, int], tuple[Tensor, float]],
) -> _Task:
    return _Task(Column(group, name, kind, strength, torch.empty(0, dtype=torch.bool)), images, measure)


def _check(
    eps: Sequence[float],
    attacks: Mapping[str, Attack],
    noises: Sequence[str],
    severities: Sequence[int],
    noise: NoiseSource,
    x: Tensor,
    batch_size: int,
) -> None:
    for e in eps:
        require_nonnegative(e, "eps")
    if attacks and not eps:
        raise ValueError("eps must hold at least one radius for the attacks, got none; pass attacks={} for no attack")
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
        yield lambda: bar.update() and None
