"""The paper's tables with our numbers below each printed one, in Markdown."""

from collections.abc import Callable, Sequence
from statistics import mean

from benchmarks.paper.plan.protocols import PROTOCOLS
from benchmarks.paper.plan.rows import ROWS
from benchmarks.paper.plan.targets import PRINTED, PrintedNumber
from benchmarks.paper.render.statistics import (
    MEASURES,
    Summary,
    our_means,
    plain_at,
    select,
    share,
    summarize,
    trained,
    value,
)
from benchmarks.paper.results_file import Result
from benchmarks.paper.run.measure import CLEAN

__all__ = ["DATASETS", "SD_TABLES", "TITLES", "accuracy_table", "markdown", "paper_table", "table_against_plain"]

TITLES = {
    1: "accuracy under the noise of CIFAR-C",
    2: "accuracy",
    3: "accuracy under attack",
    4: "variants of In-ResNet, CIFAR-10",
    5: "the range of λ at the start, CIFAR-10",
    6: "ensembles of five runs, CIFAR-10",
    7: "the range of λ at the start, CIFAR-100",
    8: "ensembles of five runs",
}
SD_TABLES = {1: 9, 2: 10, 3: 11, 4: 12, 5: 13, 7: 14}
"""Table -> the table of its standard deviations."""
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
COMPARED = ("noise", "pgd 1/255", "pgd 2/255")
"""The measures in which networks are compared with plain ones of the same clean accuracy."""


def paper_table(number: int, results: Sequence[Result]) -> str:
    """One of Tables 1 to 8: per network a line of the paper's numbers, and one of ours per protocol that was run."""
    entries = [entry for entry in PRINTED if entry["table"] == number]
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    by_data = number != 2  # the columns of Table 2 are the data sets
    rows: dict[tuple[str, str], list[PrintedNumber]] = {}
    for entry in entries:
        rows.setdefault((DATASETS[entry["dataset"]] if by_data else "", entry["row"]), []).append(entry)
    lines = []
    for (dataset, label), cells in rows.items():
        name = f"{label}, {dataset}" if dataset else label
        theirs = [str(Summary(cell["value"], cell["sd"], cell["seeds"])) for cell in cells]
        lines.append([name, f"paper, n = {cells[0]['seeds']}", *theirs])
        lines += our_lines(cells, results) or [["", "ours", *["not run"] * len(columns)]]
    return markdown(["network", "", *columns], lines)


def our_lines(cells: Sequence[PrintedNumber], results: Sequence[Result]) -> list[list[str]]:
    """Our full-scale numbers for a row of the paper: a line for each protocol under which it was run."""
    lines = []
    for protocol in PROTOCOLS:
        mean_of = our_means(results, protocol, "full")
        found = [mean_of(cell["model"], cell["dataset"], cell["measure"], cell["ensemble"]) for cell in cells]
        run = [summary for summary in found if summary is not None]
        if run:
            counts = "/".join(map(str, sorted({summary.n for summary in run})))
            failed = max(summary.failed for summary in run)
            title = f"ours ({protocol}), n = {counts}{f', {failed} failed' if failed else ''}"
            lines.append(["", title, *(str(summary) if summary else "not run" for summary in found)])
    return lines


def accuracy_table(
    rows: Sequence[str], results: Sequence[Result], dataset: str, protocol: str, scale: str, shares: bool = False
) -> str:
    """The columns of Tables 1 to 3 for any rows, in percent, or as shares of each run's own clean accuracy."""
    measures = [m for m in MEASURES if not (shares and m == CLEAN)]
    read: Callable[[Result, str], float] = share if shares else value
    lines = []
    for row in rows:
        runs = select(results, row, dataset, protocol, scale)
        sound = trained(runs)
        failed = len(runs) - len(sound)
        label = f"{ROWS[row].label}, n = {len(sound)}{f', {failed} failed' if failed else ''}"
        cells = [summarize([read(run, m) for run in sound], failed) for m in measures]
        lines.append([label, *(str(cell) if cell else "not run" for cell in cells)])
    return markdown(["network", *measures], lines)


def table_against_plain(rows: Sequence[str], results: Sequence[Result]) -> str:
    """Each network against a plain one of the same clean accuracy, run by run, in percent.

    Args:
        rows: networks; those that were not run are left out.
        results: under one protocol and scale.
    """
    lines = []
    for row in rows:
        all_runs = trained(results, row)
        runs = [run for run in all_runs if plain_at(results, CLEAN, value(run, CLEAN)) is not None]
        if not runs:
            continue
        clean = summarize([value(run, CLEAN) for run in runs])
        cells = [f"{ROWS[row].label}, n = {len(runs)} of {len(all_runs)}", str(clean)]
        for measure in COMPARED:
            pairs = [(value(run, measure), plain_at(results, measure, value(run, CLEAN))) for run in runs]
            known = [(ours, plain) for ours, plain in pairs if plain is not None]
            difference = summarize([ours - plain for ours, plain in known])
            ours, plain = (mean(values) for values in zip(*known, strict=True))
            cells.append(f"{ours:.1f} − {plain:.1f} = {difference}")
        lines.append(cells)
    return markdown(["network − plain network", CLEAN, *COMPARED], lines) if lines else "Not run."


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
