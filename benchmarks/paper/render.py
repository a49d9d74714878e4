"""Render docs/paper.md, and the figures that can be drawn, from the results under benchmarks/results/paper/.

python benchmarks/paper/render.py
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.paper import figures
from benchmarks.paper import results_file as store
from benchmarks.paper.claims import judged
from benchmarks.paper.jobs import job_named
from benchmarks.paper.rows import ARMS, CORE, FIGURES, LAMBDA_ARMS, SHORT, SHORTENED, TARGETS
from benchmarks.paper.settings import FULL, PROTOCOLS, SMALL
from benchmarks.paper.summaries import Result
from benchmarks.paper.tables import SD_TABLES, TITLES, beside_plain, columns_of, markdown, paper_table
from dampode.robustness import RecenteredPGD

DOCS = Path(__file__).parents[2] / "docs"
READING = Path(__file__).parent / "reading.md"
SMALL_NAMES = list(dict.fromkeys((*(name for name, _, _ in CORE), *LAMBDA_ARMS, *SHORT)))

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


def load(folder: Path) -> list[Result]:
    """Every result of a folder, each under the settings that its names stand for now.

    Raises:
        ValueError: a file cannot be trusted, or was made under other settings.
    """
    jobs = [job_named(result["config"]) for result in store.read_all(folder)]
    return [store.read_for(folder / f"{job.stem}.json", job) for job in jobs]


def page(results: Sequence[Result]) -> str:
    """The whole of docs/paper.md."""
    counts = {scale: sum(r["config"]["scale"]["name"] == scale for r in results) for scale in (FULL.name, SMALL.name)}
    parts = [
        INTRODUCTION.format(full=counts["full"], small=counts["small"]),
        READING.read_text(encoding="utf-8").strip(),
        "## Small scale: trends, no verdicts\n\n" + SMALL_HEAD.format(scale=SMALL),
        *small(results),
        PROTOCOL_HEAD + "\n\n" + protocols(),
        "## Full scale: claims\n\n" + CLAIMS_HEAD + "\n\n" + claims(results),
        "## Full scale: tables",
        *(table(number, results) for number in TITLES),
        "## Full scale: where the robustness comes from\n\n" + ARMS_HEAD,
        *arms(results),
        "## Full scale: figures\n\n" + figure_list(results),
    ]
    return "\n\n".join(parts) + "\n"


def protocols() -> str:
    """The switches of both protocols."""
    rows = []
    for name, protocol in PROTOCOLS.items():
        crop, attack = protocol.augmentation, protocol.ifgsm
        rows.append(
            [
                name,
                f"pad {crop.pad} ({crop.mode}), crop, flip",
                f"{protocol.anchor:g}",
                f"{255 * attack.alpha:g}/255, {attack.steps}",
                attack.keep,
                "random start" if isinstance(protocol.pgd, RecenteredPGD) else "image",
                "all images of its kind of noise" if protocol.normalized_per_file else "training set",
            ]
        )
    head = ["protocol", "augmentation", "decay pulls In-ResNet's λ to", "α, steps", "iterate kept"]
    return markdown([*head, "PGD's ball around the", "noise normalized by the"], rows)


def claims(results: Sequence[Result]) -> str:
    head = ["Sec.", "claim", "the paper's numbers", *(f"ours, full scale ({protocol})" for protocol in PROTOCOLS)]
    lines = judged(results)
    text = markdown(head, lines)
    return text if any(set(line[3:]) != {"not run"} for line in lines) else folded("All claims; ours: not run", text)


def table(number: int, results: Sequence[Result]) -> str:
    """A table with its title and command; ± is the table of standard deviations."""
    spread = f" (± from Table {SD_TABLES[number]})" if number in SD_TABLES else ""
    command = f"`python -m benchmarks.paper table{number}`"
    rows = paper_table(number, results)
    if "| ours (" not in rows:
        rows = folded(f"The paper's Table {number}; ours: not run", rows)
    text = f"### Table {number}: {TITLES[number]}{spread}\n\n{command}\n\n{rows}"
    noted = [e for e in TARGETS if e["table"] in (number, SD_TABLES.get(number)) and "note" in e]
    where: dict[str, list[str]] = {}
    for entry in noted:
        where.setdefault(entry["note"], []).append(f"Table {entry['table']}, {entry['column']}")
    notes = [f"- {'; '.join(dict.fromkeys(places))}: {note}." for note, places in where.items()]
    return "\n\n".join([text, *(["On the print:\n\n" + "\n".join(notes)] if notes else [])])


def folded(summary: str, text: str) -> str:
    """A text that a reader opens by its summary, on GitHub and in the documentation."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def arms(results: Sequence[Result]) -> list[str]:
    """The four arms at full scale."""
    return [
        f"**{title}, protocol {protocol}** (`run.py {command} --protocol {protocol}`)\n\n"
        + columns_of(names, results, "cifar10", protocol, "full")
        for protocol in PROTOCOLS
        for title, command, names in (("In-ResNet", "arms", ARMS), ("λ-In-ResNet", "lambda_arms", LAMBDA_ARMS))
        if any(r["config"]["row"] in names and _is(r, protocol, "full") for r in results)
    ] or ["Not run at full scale."]


def figure_list(results: Sequence[Result]) -> str:
    """Every figure, or that it is not drawn."""
    lines = []
    for number in FIGURES:
        drawn = [p for p in PROTOCOLS if figures.drawable(number, results, p)]
        lines += [
            f"![Figure {number}]({image(number, p)})\n\nFigure {number} ({p}): {CAPTIONS[number]}." for p in drawn
        ]
        if not drawn:
            lines.append(f"Figure {number}, {CAPTIONS[number]}: not drawn, its networks have not been run.")
    return "\n\n".join(lines)


def small(results: Sequence[Result]) -> list[str]:
    """The columns of Tables 1-3 at the small scale, beside plain networks as accurate, and as shares."""
    parts = []
    for protocol, runs in small_runs(results).items():
        names = [name for name in SMALL_NAMES if any(run["config"]["row"] == name for run in runs)]
        columns = partial(columns_of, names, runs, "cifar10", protocol, SMALL.name)
        parts += [
            f"![Share of its clean accuracy that each run keeps]({shares_image(protocol)})",
            f"**accuracy (%), protocol {protocol}**\n\n{columns()}",
            f"**beside plain networks as accurate (%), protocol {protocol}**\n\n{PLAIN_HEAD}\n\n"
            + beside_plain([name for name in names if name not in SHORT], runs),
            f"**share (%) of each run's own clean accuracy, protocol {protocol}**\n\n{columns(shares=True)}",
        ]
    return parts or ["Not run."]


def small_runs(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results at the small scale by protocol, of those that have any."""
    runs = {protocol: [r for r in results if _is(r, protocol, SMALL.name)] for protocol in PROTOCOLS}
    return {protocol: of_protocol for protocol, of_protocol in runs.items() if of_protocol}


def shares_image(protocol: str) -> str:
    return f"paper_small_{protocol}.png"


def image(number: int, protocol: str) -> str:
    return f"paper_figure{number}_{protocol}.png"


def _is(result: Result, protocol: str, scale: str) -> bool:
    return result["config"]["protocol"]["name"] == protocol and result["config"]["scale"]["name"] == scale


def main() -> None:
    results = load(store.RESULTS)
    for number in FIGURES:
        for protocol in PROTOCOLS:
            if figures.drawable(number, results, protocol):
                figures.draw(number, results, protocol, DOCS / image(number, protocol))
    for protocol, runs in small_runs(results).items():
        figures.shares([name for name in SMALL_NAMES if name not in SHORTENED], runs, DOCS / shares_image(protocol))
    (DOCS / "paper.md").write_text(page(results), encoding="utf-8")
    print(f"{len(results)} results: {DOCS / 'paper.md'}")


INTRODUCTION = """# The paper, number by number

Every number of Tables 1-8 of *Interpolation between Residual and Non-Residual Networks* (Yang, Liu, Bao, Shi, ICML
2020), with its standard deviation from Tables 9-14, beside what this library gives. Full-scale results: {full};
small-scale results: {small}. A row that was not run says so. Accuracies in percent, mean ± standard deviation over n
runs (n − 1); runs that failed to train, at most 1.5 times chance, are counted apart, as the paper does. "Protocol
text" is the experiment as the paper's text describes it, "protocol code" as the authors' public code does it; where
they differ is under [Two protocols](#two-protocols).

The page is rendered by `python benchmarks/paper/render.py` from `benchmarks/results/paper/`, where every file says
its settings, seed, machine, versions, commit and command. The paper's numbers, with notes where the print is not
consistent, are in `benchmarks/paper/targets.json`.

    python -m benchmarks.paper table1 --dataset cifar10 --seeds 0 1 2 3 4 --root data
    python -m benchmarks.paper next --minutes 9 --root data

Noise is drawn anew from the test set with the constants of CIFAR-10-C (CIFAR-10-C-style), not read from its files."""

PROTOCOL_HEAD = """## Two protocols

The text and the authors' public code part at some points. Every result is of one protocol or the other, and says
which."""

CLAIMS_HEAD = """Each claim is a rule over means of runs. The rules are asked of the paper's own numbers too. A verdict
on ours takes three runs or more of every row, at full scale. Where the paper says "much" or "most", the number in the
claim is ours."""

ARMS_HEAD = """With batch norm on the state a frozen λ only sets the gains of the branches, the factors in front of
them (`dampode.models.fold`), so a damped network's robustness may come from λ being trained, from the gains, from the
initial weights alone, or from the decay on λ. These networks tell them apart; decay on λ means nothing to the last
three, which have no trained λ. The paper has no such experiment."""

SMALL_HEAD = """Depth 110 at 1/{scale.narrow} of the width, {scale.train_images} training images, {scale.epochs} epochs;
clean images and noise on {scale.test_images} test images, attacks on {scale.attacked_images} of them. Not comparable
with the paper's numbers, and no verdict is read from it: an underfit network looks robust, so every robust accuracy
stands beside the clean one and, below, as a share of it.

    python -m benchmarks.paper next --scale small --seeds 0 1 2 --dataset cifar10 --root data
    python -m benchmarks.paper short --scale small --seeds 0 1 2 --root data"""


PLAIN_HEAD = """Each run minus what a plain ResNet of the same clean accuracy has, read off plain ones trained for ever
longer (`run.py short`; linear between the means of their runs), mean ± standard deviation over the runs. n counts
the runs that lie between the least and the most accurate plain networks."""


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
