"""The text of docs/paper.md."""

import json
from collections.abc import Sequence
from functools import partial

from benchmarks.paper.plan.protocols import PROTOCOLS, RADII, SMALL
from benchmarks.paper.plan.rows import ABLATION, LAMBDA_ABLATION, PLAIN_BY_EPOCHS, ROWS
from benchmarks.paper.plan.targets import CORE, FIGURES, PRINTED
from benchmarks.paper.render import figures
from benchmarks.paper.render.claims import judge_all
from benchmarks.paper.render.fit_section import fit_section
from benchmarks.paper.render.reading import reading
from benchmarks.paper.render.statistics import sampling_error, summarize, value
from benchmarks.paper.render.summary import summary
from benchmarks.paper.render.tables import (
    DATASETS,
    SD_TABLES,
    TITLES,
    accuracy_table,
    markdown,
    paper_table,
    table_against_plain,
)
from benchmarks.paper.results_file import Result
from dampode.robustness import RecenteredPGD, Report

__all__ = ["SMALL_ROWS", "figure_image", "figure_list", "page", "shares_image", "small_runs"]

SMALL_ROWS = list(dict.fromkeys((*(cell.row for cell in CORE), *LAMBDA_ABLATION, *PLAIN_BY_EPOCHS)))
"""The rows of the small scale, in the order shown."""

CAPTIONS = {
    1: "Coefficients of In-ResNet, CIFAR-10",
    2: "Loss landscapes of ResNet-110 and In-ResNet-110",
    3: "Gains of ensembles, depth 110, CIFAR-10",
    4: "Coefficients of λ-In-ResNet, CIFAR-10",
    5: "Coefficients of In-ResNet, CIFAR-100",
    6: "Coefficients of λ-In-ResNet, CIFAR-100",
    7: "Gains of ensembles, depth 164, CIFAR-10",
    8: "Gains of ensembles, CIFAR-100",
}


def page(results: Sequence[Result], sound: Sequence[tuple[Result, Result]] = ()) -> str:
    """The whole of docs/paper.md.

    Args:
        results: every result.
        sound: the results that were also measured under a sound protocol, each with that measurement.
    """
    parts = [
        TITLE,
        summary(results),
        INTRODUCTION,
        fit_section(results),
        reading(results),
        "## Small scale: trends, no verdicts\n\n" + SMALL_HEAD.format(scale=SMALL, **SMALL_ERRORS),
        *small(results),
        PROTOCOL_HEAD + "\n\n" + protocols(),
        MEASUREMENT_HEAD + "\n\n" + sanity(results),
        SOUND_HEAD + "\n\n" + both_ways(sound),
        "## Full scale: claims\n\n" + CLAIMS_HEAD + "\n\n" + claims(results),
        "## Full scale: tables",
        *(table(number, results) for number in TITLES),
        "## Full scale: where the robustness comes from\n\n" + ABLATION_HEAD,
        *ablation(results),
        "## Full scale: figures\n\n" + figure_list(results),
    ]
    return "\n\n".join(parts) + "\n"


def protocols() -> str:
    """The settings of both protocols."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        crop, attack = protocol.augmentation, protocol.ifgsm
        rows.append(
            [
                name,
                f"pad {crop.pad} ({crop.mode}), crop, flip",
                f"{protocol.anchor:g}",
                f"{0.1 if protocol.lambda_momentum is None else protocol.lambda_momentum:g}",
                f"{'ε/4' if attack.alpha is None else f'{255 * attack.alpha:g}/255'}, {attack.steps}",
                attack.keep,
                "random start" if isinstance(protocol.pgd, RecenteredPGD) else "image",
                "all images of its kind of noise" if protocol.normalized_per_file else "training set",
            ]
        )
    head = ["protocol", "augmentation", "decay pulls In-ResNet's λ to", "momentum of λ-In-ResNet's branch norms"]
    return markdown([*head, "α, steps", "iterate kept", "center of PGD's ball", "noise normalized by the"], rows)


def sanity(results: Sequence[Result]) -> str:
    """How many results have reports, and the results whose reports break a sanity check."""
    with_reports = [result for result in results if result["reports"] is not None]
    counts = (
        f"Results with reports: {len(with_reports)}. Results with accuracies only: {len(results) - len(with_reports)}."
    )
    broken = [
        [result["config"]["row"], result["config"]["dataset"], str(result["config"]["seeds"]), name]
        for result in with_reports
        for name, report in result["reports"].items()
        if Report.from_json(json.dumps(report)).passed is False
    ]
    if not with_reports:
        return counts
    if not broken:
        return f"{counts} No report breaks a sanity check."
    return f"{counts} A sanity check is broken in:\n\n" + markdown(["row", "data set", "seeds", "report"], broken)


def both_ways(sound: Sequence[tuple[Result, Result]]) -> str:
    """Accuracy under the paper's PGD beside that under the strongest attack of the sound protocol."""
    if not sound:
        return "No network has been measured both ways yet: the weights of the networks on this page were not kept."
    head = ["network", *(f"{radius}/255, {name}" for radius in RADII for name in ("paper's PGD", "sound"))]
    groups: dict[str, list[tuple[Result, Result]]] = {}
    for result, other in sound:
        config = result["config"]
        label = f"{ROWS[config['row']].label}, {DATASETS[config['dataset']]}"
        label += f"{', ensemble' if len(config['seeds']) > 1 else ''}"
        label += f", {config['scale']['name']} scale, protocol {config['protocol']['name']}"
        groups.setdefault(label, []).append((result, other))
    lines = []
    for label, pairs in groups.items():
        reports = [Report.from_json(json.dumps(other["report"])) for _, other in pairs]
        cells = []
        for radius in RADII:
            cells.append(summarize([value(result, f"pgd {radius}/255") for result, _ in pairs]))
            cells.append(summarize([100 * report.robust_accuracy(radius / 255) for report in reports]))
        lines.append([f"{label}, n = {len(pairs)}", *map(str, cells)])
    return markdown(head, lines)


def claims(results: Sequence[Result]) -> str:
    """Every claim with its verdicts; folded if none was run."""
    judgments = judge_all(results)
    head = ["Sec.", "claim", "the paper's numbers", *(f"ours, full scale ({protocol})" for protocol in PROTOCOLS)]
    text = markdown(head, [[j.section, j.claim, j.print_says, *j.ours] for j in judgments])
    run = any(verdict != "not run" for judgment in judgments for verdict in judgment.ours)
    return text if run else folded("All claims; ours: not run", text)


def table(number: int, results: Sequence[Result]) -> str:
    """A table with its title and command; ± is from the table of standard deviations."""
    spread = f" (± from Table {SD_TABLES[number]})" if number in SD_TABLES else ""
    command = f"`python -m benchmarks.paper table{number}`"
    rows = paper_table(number, results)
    if "| ours (" not in rows:
        rows = folded(f"The paper's Table {number}; ours: not run", rows)
    text = f"### Table {number}: {TITLES[number]}{spread}\n\n{command}\n\n{rows}"
    columns_with: dict[str, list[str]] = {}
    for entry in PRINTED:
        if entry["table"] in (number, SD_TABLES.get(number)) and "note" in entry:
            columns_with.setdefault(entry["note"], []).append(f"Table {entry['table']}, {entry['column']}")
    notes = [f"- {'; '.join(dict.fromkeys(columns))}: {note}." for note, columns in columns_with.items()]
    return "\n\n".join([text, *(["On the print:\n\n" + "\n".join(notes)] if notes else [])])


def folded(summary: str, text: str) -> str:
    """A text that a reader opens by its summary, on GitHub and in the documentation."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def ablation(results: Sequence[Result]) -> list[str]:
    """The ablations at full scale."""
    return [
        f"**{title}, protocol {protocol}** (`python -m benchmarks.paper {target} --protocol {protocol}`)\n\n"
        + accuracy_table(rows, results, "cifar10", protocol, "full")
        for protocol in PROTOCOLS
        for title, target, rows in (
            ("In-ResNet", "ablation", ABLATION),
            ("λ-In-ResNet", "lambda_ablation", LAMBDA_ABLATION),
        )
        if any(result["config"]["row"] in rows and _is(result, protocol, "full") for result in results)
    ] or ["Not run at full scale."]


def figure_list(results: Sequence[Result]) -> str:
    """Every figure, or that it is not drawn."""
    lines = []
    for number in FIGURES:
        drawn = [p for p in PROTOCOLS if figures.drawable(number, results, p)]
        lines += [
            f"![Figure {number}]({figure_image(number, p)})\n\nFigure {number} ({p}): {CAPTIONS[number]}."
            for p in drawn
        ]
        if not drawn:
            lines.append(f"Figure {number}, {CAPTIONS[number]}: not drawn, its networks have not been run.")
    return "\n\n".join(lines)


def small(results: Sequence[Result]) -> list[str]:
    """The small scale: columns of Tables 1 to 3, comparison with plain networks, and shares."""
    parts = []
    for protocol, runs in small_runs(results).items():
        rows = [row for row in SMALL_ROWS if any(run["config"]["row"] == row for run in runs)]
        columns = partial(accuracy_table, rows, runs, "cifar10", protocol, SMALL.name)
        parts += [
            f"![Share of its clean accuracy that each run keeps]({shares_image(protocol)})",
            f"**Accuracy (%), protocol {protocol}**\n\n{columns()}",
            f"**Difference to plain networks of the same clean accuracy (%), protocol {protocol}**\n\n{PLAIN_HEAD}\n\n"
            + table_against_plain([row for row in rows if row not in PLAIN_BY_EPOCHS], runs),
            f"**Share (%) of each run's own clean accuracy, protocol {protocol}**\n\n{columns(shares=True)}",
        ]
    return parts or ["Not run."]


def small_runs(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results at the small scale by protocol, for the protocols that have any."""
    runs = {protocol: [result for result in results if _is(result, protocol, SMALL.name)] for protocol in PROTOCOLS}
    return {protocol: of_protocol for protocol, of_protocol in runs.items() if of_protocol}


def shares_image(protocol: str) -> str:
    """Name of the image of `figures.draw_shares`."""
    return f"paper_small_{protocol}.png"


def figure_image(number: int, protocol: str) -> str:
    """Name of the image of a figure of the paper."""
    return f"paper_figure{number}_{protocol}.png"


def _is(result: Result, protocol: str, scale: str) -> bool:
    config = result["config"]
    return bool(config["protocol"]["name"] == protocol and config["scale"]["name"] == scale)


TITLE = "# The paper, number by number"

SMALL_ERRORS = {"clean_error": sampling_error(2_000), "attack_error": sampling_error(500)}

INTRODUCTION = """## How to read this page

This page sets our results below every number of Tables 1 to 8 of *Interpolation between Residual and Non-Residual
Networks* (Yang, Liu, Bao, Shi, ICML 2020). The paper's standard deviations are those of its Tables 9 to 14.

| | |
| --- | --- |
| sampling error | of an accuracy on 2,000 images, the number attacked at full scale: at most 1.1 points |
| numbers | accuracy in percent, mean ± standard deviation over n runs (n − 1) |
| failed runs | accuracy at most 1.5 times that of guessing; counted apart, as the paper does |
| protocol "text" | the experiment as the paper's text describes it |
| protocol "code" | the experiment as the authors' public code does it; see [Two protocols](#two-protocols) |
| noise | drawn from the test set with the constants of CIFAR-10-C, not read from its files |

A row without results says "not run".

`python -m benchmarks.paper.render` writes this page from `benchmarks/results/paper/`. Every file there records its
settings, seed, machine, versions, commit and command. The paper's numbers are in
`benchmarks/paper/plan/printed_numbers.json`, with notes where the print is not consistent. Two examples of commands
that train and measure:

    python -m benchmarks.paper table1 --dataset cifar10 --seeds 0 1 2 3 4 --root data
    python -m benchmarks.paper next --minutes 9 --root data"""

PROTOCOL_HEAD = """## Two protocols

The paper's text and the authors' public code differ in some settings. Every result is of one protocol and records
which.

The authors' line for λ-In-ResNet evaluates the branch twice, so every batch enters the running statistics of its batch
norms twice. Two updates with momentum 0.1 keep 0.9² = 0.81 of the statistics. Protocol "code" evaluates the branch
once, with momentum 1 − 0.81 = 0.19, which gives the same statistics."""

MEASUREMENT_HEAD = """## How a network is measured

`dampode.robustness.evaluate` measures every network twice: under noise on all test images, and under attack on the
first of them. The result file keeps both reports, with the outcome per image and the sanity checks. All networks meet
the same noisy images. The random starts of PGD come from the seed of the run and are drawn per block of 1,000 images.

Results with accuracies only were measured without `evaluate`, by the command and commit that they record. Their
noise was drawn in the same way. The starts of PGD were drawn from the same seed in another order, so a new
measurement of the same weights would give slightly different numbers in PGD's columns."""

CLAIMS_HEAD = """Each claim is a rule over means of runs. We apply the rules to the paper's own numbers too. A verdict
on our numbers needs three or more full-scale runs of every row. Where the paper says "much" or "most", the threshold
is ours."""

SOUND_HEAD = """### The paper's attacks beside sound ones

The paper's step of 2/255 is twice ε at ε = 1/255. The iteration then jumps between the faces of the ball, and a
network looks more robust than it is. Each network is therefore measured a second time, on the same images and radii:
under PGD with α = ε/4 and five restarts, and under APGD on the cross entropy with 100 steps. The column "sound" is
the accuracy in the worst case of these attacks, in percent. The measurements lie in
`benchmarks/results/paper/sound/`. A run measures both ways, and a complete result whose checkpoint was kept gets the
second measurement by the same command."""

ABLATION_HEAD = """With batch norm on the state, a frozen λ only sets the gains of the branches, which are the factors
in front of them (`dampode.models.fold`). The robustness of a damped network may therefore come from the training of λ,
from the gains, from the initial weights alone, or from the decay on λ. The networks below separate these causes. Decay
on λ has no effect on the last three, which have no trained λ. The paper has no such experiment."""

SMALL_HEAD = """| | |
| --- | --- |
| depth, width | 110, 1/{scale.narrow} of the paper's |
| training | {scale.train_images:,} images, {scale.epochs} epochs |
| clean images and noise | {scale.test_images:,} test images; sampling error at most {clean_error:.1f} points |
| attacks | the first {scale.attacked_images} of them; sampling error at most {attack_error:.1f} points |

These numbers cannot be compared with the paper's, and we read no verdict from them. An underfit network looks robust:
compare every robust accuracy with the clean one. The last table shows it as a share of the clean one.

    python -m benchmarks.paper next --scale small --seeds 0 1 2 \\
        --dataset cifar10 --root data
    python -m benchmarks.paper lambda_ablation --scale small --seeds 0 \\
        --dataset cifar10 --root data
    python -m benchmarks.paper fewer_epochs --scale small --seeds 0 1 2 --root data"""

PLAIN_HEAD = """Each run minus a plain ResNet of the same clean accuracy, mean ± standard deviation over the runs. The
plain ResNets were trained for more and more epochs (target `fewer_epochs`); between the means of their runs we
interpolate linearly. n counts the runs whose clean accuracy lies between the least and the most accurate of these
means."""
