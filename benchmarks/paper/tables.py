"""The paper's tables with ours beside theirs, in Markdown."""

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from benchmarks.paper.rows import ROWS, TARGETS
from benchmarks.paper.settings import PROTOCOLS
from benchmarks.paper.summaries import (
    ACC,
    MEASURES,
    Result,
    Summary,
    measured,
    plain_at,
    select,
    share,
    summarize,
    trained,
    value,
)

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
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
COMPARED = ("noise", "pgd 1/255", "pgd 2/255")
"""What damped networks and plain ones of the same clean accuracy are compared in."""


def paper_table(number: int, results: Sequence[Result]) -> str:
    """One of Tables 1-8: a line of the paper's numbers a network, and one of ours for each protocol that was run."""
    entries = [entry for entry in TARGETS if entry["table"] == number]
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    by_data = number != 2  # whose columns are the data sets
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        rows.setdefault((DATASETS[entry["dataset"]] if by_data else "", entry["row"]), []).append(entry)
    head = ["network", "", *columns]
    lines = []
    for (dataset, label), cells in rows.items():
        name = f"{label}, {dataset}" if dataset else label
        theirs = [str(Summary(cell["value"], cell["sd"], cell["seeds"])) for cell in cells]
        lines.append([name, f"paper, n = {cells[0]['seeds']}", *theirs])
        lines += our_lines(cells, results) or [["", "ours", *["not run"] * len(columns)]]
    return markdown(head, lines)


def our_lines(cells: Sequence[dict[str, Any]], results: Sequence[Result]) -> list[list[str]]:
    """Our full-scale numbers for a row of the paper, a line for each protocol under which there are any."""
    lines = []
    for protocol in PROTOCOLS:
        values = measured(results, protocol, "full")
        found = [values(cell["model"], cell["dataset"], cell["measure"], cell["ensemble"]) for cell in cells]
        run = [summary for summary in found if summary is not None]
        if run:
            counts = "/".join(map(str, sorted({summary.n for summary in run})))
            failed = max(summary.failed for summary in run)
            who = f"ours ({protocol}), n = {counts}{f', {failed} failed' if failed else ''}"
            lines.append(["", who, *(str(summary) if summary else "not run" for summary in found)])
    return lines


def columns_of(
    rows: Sequence[str], results: Sequence[Result], dataset: str, protocol: str, scale: str, shares: bool = False
) -> str:
    """The columns of Tables 1-3 for any rows, in percent, or as shares of each run's own clean accuracy."""
    measures = [m for m in MEASURES if not (shares and m == ACC)]
    read: Callable[[Result, str], float] = share if shares else value
    lines = []
    for row in rows:
        of_row = select(results, row, dataset, protocol, scale)
        sound = [result for result in of_row if not result["failed"]]
        failed = len(of_row) - len(sound)
        label = f"{ROWS[row].label}, n = {len(sound)}{f', {failed} failed' if failed else ''}"
        cells = [summarize([read(result, m) for result in sound], failed) for m in measures]
        lines.append([label, *(str(cell) if cell else "not run" for cell in cells)])
    return markdown(["network", *measures], lines)


def beside_plain(rows: Sequence[str], results: Sequence[Result]) -> str:
    """Each network beside a plain one of the same clean accuracy, run by run, in percent.

    Args:
        rows: networks; those that were not run are left out.
        results: under one protocol and scale.
    """
    lines = []
    for row in rows:
        of_row = trained(results, row)
        runs = [run for run in of_row if plain_at(results, ACC, value(run, ACC)) is not None]
        if not runs:
            continue
        cells = [f"{ROWS[row].label}, n = {len(runs)} of {len(of_row)}", str(summarize([value(r, ACC) for r in runs]))]
        for measure in COMPARED:
            ours = [value(run, measure) for run in runs]
            plain = [plain_at(results, measure, value(run, ACC)) for run in runs]
            more = summarize([a - b for a, b in zip(ours, plain, strict=True)])
            cells.append(f"{mean(ours):.1f} − {mean(plain):.1f} = {more}")
        lines.append(cells)
    return markdown(["network − plain network", ACC, *COMPARED], lines) if lines else "Not run."


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
