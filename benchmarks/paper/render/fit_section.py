"""The section of docs/paper.md on scale fit: tables, and a verdict that follows from them by rule."""

from collections.abc import Sequence
from math import sqrt
from statistics import mean, variance

from benchmarks.paper.plan.protocols import FIT
from benchmarks.paper.plan.rows import ROWS, SHALLOW
from benchmarks.paper.plan.targets import EXPERIMENTS
from benchmarks.paper.render.depth_study import (
    PLAIN,
    ROBUSTNESS,
    SOUND,
    Intervals,
    beside_plain,
    correlation_table,
    fit_runs,
    intervals,
    network_table,
    regression_table,
)
from benchmarks.paper.render.regression import Interval
from benchmarks.paper.render.statistics import sampling_error, share, value
from benchmarks.paper.render.tables import markdown
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import DEPTH_IMAGES

__all__ = [
    "FITS",
    "FIT_IMAGE",
    "RUNS",
    "accuracy_verdict",
    "depth_verdict",
    "enough",
    "fit_section",
    "property_verdict",
    "shallow_verdict",
]

DEEP = "resnet-110"
DAMPED = ("in_resnet-110", "lambda_in_resnet-110")
FIT_IMAGE = "paper_fit.png"
FITS = 95.0
"""A network fits if it classifies this percentage of its training images correctly."""
RUNS = 3
"""A verdict needs this many runs of every network."""
COMMAND = "python -m benchmarks.paper depth --scale fit --dataset cifar10 --seeds 0 1 2 --root data"


def fit_section(results: Sequence[Result]) -> str:
    """The whole section."""
    runs_of = fit_runs(results)
    parts = [HEAD.format(scale=FIT, error=sampling_error(1_000), command=COMMAND, depth_images=DEPTH_IMAGES)]
    if not runs_of:
        return "\n\n".join([*parts, "Not run."])
    parts += [missing(runs_of), DEFINITIONS, network_table(runs_of), fitting(runs_of)]
    parts += [f"![Share kept against effective depth and clean accuracy]({FIT_IMAGE})", BESIDE, beside_table(runs_of)]
    if enough(runs_of):
        found = {measure: intervals(runs_of, measure) for measure in ROBUSTNESS}
        parts += [ALONE, correlation_table(found), TOGETHER, regression_table(found), verdict(runs_of, found)]
    else:
        parts.append("**No verdict yet.** It needs three runs of every network.")
    return "\n\n".join(part for part in parts if part)


def enough(runs_of: dict[str, list[Result]]) -> bool:
    """Whether every network of the study has the runs that a verdict needs."""
    return all(len(runs_of.get(row, [])) >= RUNS for row in EXPERIMENTS["depth"])


def missing(runs_of: dict[str, list[Result]]) -> str:
    """How many of the runs that a verdict needs are complete; empty if all are."""
    needed = RUNS * len(EXPERIMENTS["depth"])
    complete = sum(min(RUNS, len(runs_of.get(row, []))) for row in EXPERIMENTS["depth"])
    return f"{complete} of the {needed} runs are complete; n counts those of each network." if complete < needed else ""


def training_accuracy(runs: Sequence[Result]) -> float:
    """Mean accuracy on the training images in the last epoch, in percent."""
    return mean(100 * float(run["training"]["accuracy"][-1]) for run in runs)


def fitting(runs_of: dict[str, list[Result]]) -> str:
    """Which networks fit their training images."""
    unfit = [
        f"{ROWS[row].label} ({training_accuracy(runs):.1f} %)"
        for row, runs in runs_of.items()
        if training_accuracy(runs) < FITS
    ]
    if not unfit:
        return f"Every network learns at least {FITS:g} % of its training images."
    return f"Networks that learn fewer than {FITS:g} % of their training images:\n\n" + "\n".join(
        f"- {network}" for network in unfit
    )


def beside_table(runs_of: dict[str, list[Result]]) -> str:
    """Per damped network and ablation: the least and the greatest difference to a plain network of its depth."""
    by_measure = {measure: beside_plain(runs_of, measure) for measure in ROBUSTNESS}
    lines = []
    for row in (row for row in runs_of if row not in PLAIN):
        compared = f"{len(by_measure[SOUND][row])} of {len(runs_of[row])}"
        cells = [_range(of_measure[row]) for of_measure in by_measure.values()]
        lines.append([ROWS[row].label, compared, *cells])
    head = ["network", "runs compared", *(f"share kept, {name} (points)" for name in ROBUSTNESS.values())]
    return markdown(head, lines) if lines else "Not run."


def accuracy_verdict(runs_of: dict[str, list[Result]]) -> list[str]:
    """Per damped network: points of accuracy by which it differs from the plain network of its depth.

    A difference counts if it exceeds two standard errors over the runs.
    """
    said = []
    for row in DAMPED:
        found = []
        for measure, name in ROBUSTNESS.items():
            difference, error = _difference([[value(run, measure) for run in runs_of[r]] for r in (row, DEEP)])
            words = (
                ("more accurate" if difference > 0 else "less accurate")
                if abs(difference) > 2 * error
                else "not told apart"
            )
            found.append(f"{words} under {name} ({difference:+.1f} ± {error:.1f} points)".replace("-", "−"))
        said.append(f"Beside {ROWS[DEEP].label}, {ROWS[row].label} is {' and '.join(found)}.")
    return said


def shallow_verdict(runs_of: dict[str, list[Result]]) -> str:
    """Whether a shallow plain network keeps more than the deep one, by more than two standard errors over the runs."""
    more = []
    for row in SHALLOW:
        for measure, name in ROBUSTNESS.items():
            difference, error = _difference([[share(run, measure) for run in runs_of[r]] for r in (row, DEEP)])
            if difference > 2 * error:
                more.append(f"{ROWS[row].label} under {name}")
    if more:
        return f"Shallow plain networks that keep more than {ROWS[DEEP].label}: {', '.join(more)}."
    return (
        f"No plain network of depth 8 to 56 keeps more than {ROWS[DEEP].label}, under noise or under attack. "
        "So being shallow does not make a network robust here, although damped networks are shallow in effect."
    )


def verdict(runs_of: dict[str, list[Result]], found: dict[str, Intervals]) -> str:
    """What the tables say, by rule."""
    lines = [f"- {said}" for said in (*accuracy_verdict(runs_of), shallow_verdict(runs_of))]
    lines += [f"- {property_verdict(ROBUSTNESS[measure], *of_measure)}" for measure, of_measure in found.items()]
    lines += [f"- {depth_verdict(measure, beside_plain(runs_of, measure))}" for measure in ROBUSTNESS]
    return f"{VERDICT}\n\n" + "\n".join(lines)


def property_verdict(name: str, alone: dict[str, Interval], together: dict[str, Interval]) -> str:
    """Which properties the share kept follows, alone and at equal values of the others."""
    follows = _named({p: interval for p, interval in alone.items() if interval.excludes_zero})
    left = _named({p: interval for p, interval in together.items() if interval.excludes_zero})
    first = (
        f"Under {name}, the share kept follows {follows}."
        if follows
        else (f"Under {name}, the share kept follows none of the properties.")
    )
    second = (
        f"At equal values of the other properties it follows {left}."
        if left
        else ("At equal values of the other properties none is left: these runs cannot tell the properties apart.")
    )
    return f"{first} {second}"


def depth_verdict(measure: str, differences: dict[str, list[float]]) -> str:
    """Whether a network keeps more than a plain network of the same effective depth."""
    name = ROBUSTNESS[measure]
    compared = {row: values for row, values in differences.items() if values}
    if not compared:
        return f"Under {name}, no run has the effective depth of a plain network."
    more = [ROWS[row].label for row, values in compared.items() if min(values) > 0]
    less = [ROWS[row].label for row, values in compared.items() if max(values) < 0]
    return (
        f"Beside plain networks of the same effective depth, under {name}: "
        f"{len(more)} of {len(compared)} networks keep more in every run; {len(less)} keep less in every run."
    )


def _named(chosen: dict[str, Interval]) -> str:
    """Properties with the direction in which the share kept goes with them."""
    return ", ".join(f"{name} ({'more' if i.estimate > 0 else 'less'} is more robust)" for name, i in chosen.items())


def _difference(pair: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The difference of two means, and its standard error."""
    ours, other = pair
    return mean(ours) - mean(other), sqrt(variance(ours) / len(ours) + variance(other) / len(other))


def _range(values: Sequence[float]) -> str:
    """The least and the greatest value."""
    if not values:
        return "not comparable"
    return " to ".join(f"{end:.1f}".replace("-", "−") for end in dict.fromkeys((min(values), max(values))))


HEAD = """## Scale fit: an easier problem, which plain ResNets and In-ResNet learn

| | |
| --- | --- |
| problem | cars against frogs (classes 1 and 6 of CIFAR-10); each pixel is the mean of 4x4, so images are 8x8 |
| depth, width | as named, 1/{scale.narrow} of the paper's |
| training | {scale.train_images:,} images, {scale.recipe.epochs} epochs, no augmentation |
| batch size, learning rate | {scale.recipe.batch_size}, {scale.recipe.lr:g} |
| clean images, noise and attacks | the same {scale.test_images:,} test images |
| sampling error of an accuracy | at most {error:.1f} points (one standard error) |
| paper's PGD | α = 2/255, 20 steps, last iterate |
| APGD | cross entropy, {scale.sound.steps} steps; its steps scale with ε |
| sanity checks | on the first {scale.probed_images} of these images |
| effective depth | measured on the first {depth_images} test images |

At the small scale below no network learns all its training images, and an underfit network looks robust. This scale
removes that cause for the networks that learn theirs; a list below names the others. The numbers cannot be compared
with the paper's: the problem is another, and so is the recipe.

    {command}"""

DEFINITIONS = """Three words of the tables:

- **Effective depth.** A folded network adds up the outputs of its blocks (`dampode.models.fold`). The share p_n of a
  block is its share of the variance over the images in the final state of its stage. The effective depth is
  2 + 2 Σ 1 / Σ p_n², summed over the three stages (`dampode.models.effective_depth`). It is the depth of a network in
  which all blocks have equal shares.
- **Growth of the gains.** The gain of a block is the factor that folding puts in front of it. The growth is log10 of
  the amplitude of the later half of a stage's blocks divided by that of the earlier half, measured from the shares.
- **Blocks that matter.** Without such a block the accuracy falls by more than two standard errors.

Each number is the mean ± standard deviation over the n runs. "Kept" is the share of a run's own clean accuracy."""

BESIDE = """**Compared with plain networks of the same effective depth.** The share that each run keeps, minus the share
that a plain ResNet of its effective depth keeps. Between the plain ResNets of depth 8 to 110 we interpolate over log2
of the effective depth. The table shows the least and the greatest difference of a run."""

ALONE = """**Each property by itself.** Spearman's rank correlation of the share kept with a property, over all runs of
the table above. In brackets: the interval of 95 % of 2,000 bootstrap draws, in which networks are drawn anew, then the
runs of each."""

TOGETHER = """**All properties together.** Coefficients of a linear regression on all four properties: standard
deviations of the share kept per standard deviation of the property, at equal values of the others, with intervals as
above."""

VERDICT = """**Verdict.** A property counts if its interval excludes 0. A difference counts if it exceeds two standard
errors; ± is one."""
