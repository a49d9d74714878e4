"""The paper's printed numbers, and the cells that each table, figure or experiment needs."""

import json
from pathlib import Path
from string import digits
from typing import NamedTuple, TypedDict

from benchmarks.paper.plan.rows import ABLATION, BASE, LAMBDA_ABLATION, PLAIN_BY_EPOCHS, ROWS, SHALLOW

__all__ = [
    "CORE",
    "EXPERIMENTS",
    "FIGURES",
    "FIGURE_2_IMAGES",
    "GAIN_FIGURES",
    "PRINTED",
    "Cell",
    "PrintedNumber",
    "cells_of",
    "later_cells",
]


class _PrintedNumber(TypedDict):
    table: int
    dataset: str
    row: str
    column: str
    model: str
    ensemble: bool
    measure: str
    value: float
    sd: float | None
    seeds: int


class PrintedNumber(_PrintedNumber, total=False):
    """A number of Tables 1 to 14, as it is printed.

    ``row`` and ``column`` are the table's words, ``model`` and ``measure`` ours. ``note`` says where the print is not
    consistent.
    """

    note: str


class Cell(NamedTuple):
    """A network on a data set.

    Args:
        row: name of a `Row`.
        dataset: "cifar10" or "cifar100".
        ensemble: whether it is the ensemble over the seeds.
    """

    row: str
    dataset: str
    ensemble: bool = False


PRINTED: list[PrintedNumber] = json.loads((Path(__file__).parent / "printed_numbers.json").read_text(encoding="utf-8"))
"""Every number of Tables 1 to 14."""

VARIANTS = tuple(row for row in (*ABLATION, *LAMBDA_ABLATION) if row not in BASE)
EXPERIMENTS = {
    "ablation": ABLATION,
    "lambda_ablation": LAMBDA_ABLATION,
    "fewer_epochs": PLAIN_BY_EPOCHS,
    "depth": (*BASE, *SHALLOW, *VARIANTS),
}
"""Experiments that the paper lacks: the rows of each."""

FIGURES: dict[int, tuple[tuple[str, ...], str]] = {
    1: (("in_resnet-110", "in_resnet-164"), "cifar10"),
    2: (("resnet-110", "in_resnet-110"), "cifar10"),
    3: (BASE, "cifar10"),
    4: (("lambda_in_resnet-110", "lambda_in_resnet-164"), "cifar10"),
    5: (("in_resnet-110", "in_resnet-164"), "cifar100"),
    6: (("lambda_in_resnet-110", "lambda_in_resnet-164"), "cifar100"),
    7: (("resnet-164", "in_resnet-164", "lambda_in_resnet-164"), "cifar10"),
    8: ((*BASE, "resnet-164", "in_resnet-164", "lambda_in_resnet-164"), "cifar100"),
}
"""The networks and the data set of each figure. Figures 1 and 4 to 6 show coefficients, Figure 2 loss landscapes."""
GAIN_FIGURES = (3, 7, 8)
"""Figures that show what an ensemble gains over its members."""
FIGURE_2_IMAGES = (("shot", 2), ("speckle", 13))
"""Kind of noise, at severity 1, and index of the test image.

The paper's are the 3rd image, a ship, and the 8th, which it calls a horse. The 8th is a frog, so we take the first
horse.
"""

CORE = tuple(Cell(row, "cifar10") for row in dict.fromkeys((*BASE, "cnn-110", *ABLATION)))
"""What the target "next" runs first, seed by seed."""


def later_cells() -> tuple[Cell, ...]:
    """What "next" runs after `CORE`, all seeds of a network together: CIFAR-10 first, then CIFAR-100 and ResNeXt."""
    tables = [cell for number in (3, 5, 4, 7, 2, 6, 8) for cell in cells_of(f"table{number}") if cell not in CORE]
    unique = list(dict.fromkeys(tables))
    return tuple(sorted(unique, key=lambda cell: cell.dataset != "cifar10" or ROWS[cell.row].depth is None))


def cells_of(target: str) -> tuple[Cell, ...]:
    """The cells of a table ("table5"), a figure ("figure3") or one of `EXPERIMENTS`, in the order shown.

    Raises:
        ValueError: there is no such target.
    """
    if target in EXPERIMENTS:
        return tuple(Cell(row, "cifar10") for row in EXPERIMENTS[target])
    kind = target.rstrip(digits)
    number = int(target.removeprefix(kind) or 0)
    if kind == "table" and 1 <= number <= 14:
        of_table = (entry for entry in PRINTED if entry["table"] == number)
        return tuple(dict.fromkeys(Cell(e["model"], e["dataset"], e["ensemble"]) for e in of_table))
    if kind == "figure" and number in FIGURES:
        rows, dataset = FIGURES[number]
        kinds = (False, True) if number in GAIN_FIGURES else (False,)
        return tuple(Cell(row, dataset, ensemble) for ensemble in kinds for row in rows)
    raise ValueError(
        f"the target must be table1 to table14, figure1 to figure8, {', '.join(EXPERIMENTS)} or next, got {target!r}"
    )
