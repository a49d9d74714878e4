"""The transcription of the paper's tables is whole, and agrees with itself."""

from collections import Counter
from math import sqrt

import pytest

from benchmarks.paper.plan.rows import LAMBDA_ABLATION, ROWS
from benchmarks.paper.plan.targets import CORE, FIGURES, PRINTED, cells_of, later_cells
from benchmarks.paper.render.statistics import printed

NOISES = ("impulse", "speckle", "gaussian", "shot")


def rows_of(table):
    rows = {}
    for entry in PRINTED:
        if entry["table"] == table:
            rows.setdefault((entry["dataset"], entry["row"]), {})[entry["measure"]] = entry
    return rows


def test_every_number_is_there():
    counts = Counter(entry["table"] for entry in PRINTED)
    sizes = {1: 18 * 5, 2: 9 * 2, 3: 12 * 9, 4: 5 * 5, 5: 11 * 5, 6: 12 * 5, 7: 11 * 5, 8: 24 * 5}
    sizes |= {9: 12 * 5, 10: 6 * 2, 11: 12 * 9, 12: 5 * 5, 13: 11 * 5, 14: 11 * 5}
    assert counts == sizes
    cells = Counter((e["table"], e["dataset"], e["row"], e["column"]) for e in PRINTED)
    assert max(cells.values()) == 1


@pytest.mark.parametrize("table", [1, 9])
def test_the_printed_averages_follow_from_the_groups(table):
    """Table 1's mean and Table 9's root mean square, to the rounding of the groups and of the average."""
    rounding = 0.005 if table == 1 else 0.0005
    for row in rows_of(table).values():
        groups = [row[kind]["value"] for kind in NOISES]
        average = sum(groups) / 4 if table == 1 else sqrt(sum(g * g for g in groups) / 4)
        assert row["noise"]["value"] == pytest.approx(average, abs=2.01 * rounding)


def test_repeated_numbers_agree_and_deviations_are_those_of_tables_9_to_14():
    values, spreads = {}, {}
    for e in PRINTED:
        cell = e["model"], e["dataset"], e["measure"], e["ensemble"]
        kept = values if e["table"] <= 8 else spreads
        assert kept.setdefault(cell, e["value"]) == e["value"], e
    for e in PRINTED:
        cell = e["model"], e["dataset"], e["measure"], e["ensemble"]
        if e["table"] <= 8:
            assert e["sd"] == spreads.get(cell), e
        else:
            assert e["sd"] is None
            assert cell in values
    assert printed("in_resnet-110", "cifar10", "noise", False).sd == 3.583


def test_seeds_are_those_of_the_captions():
    odd = {(e["table"], e["row"], e["seeds"]) for e in PRINTED if e["seeds"] != 5}
    assert odd == {
        (table, f"{model} U[0.30, 0.40]", seeds)
        for tables, model, seeds in (
            ((5, 13), "In-ResNet", 4),
            ((5, 13), "λ-In-ResNet", 2),
            ((7, 14), "In-ResNet", 3),
            ((7, 14), "λ-In-ResNet", 2),
        )
        for table in tables
    }


def test_what_the_print_gets_wrong_is_noted():
    noted = {(e["table"], e["column"]) for e in PRINTED if "note" in e}
    assert {(11, f"{a} {r}/255") for a in ("FGSM", "IFGSM", "PGD") for r in (2, 4, 8)} <= noted
    assert {(t, a) for t in (7, 8) for a in ("FGSM", "IFGSM", "PGD")} <= noted
    assert (9, "Avg.") in noted


def test_every_target_is_a_row_and_every_table_and_figure_has_cells_of():
    assert {entry["model"] for entry in PRINTED} <= set(ROWS)
    assert [len(cells_of(f"table{n}")) for n in range(1, 15)] == [18, 18, 12, 5, 11, 12, 11, 24, 12, 12, 12, 5, 11, 11]
    assert cells_of("table6")[:2] == (("resnet-110", "cifar10", False), ("resnet-110", "cifar10", True))
    for number, (names, _) in FIGURES.items():
        assert {cell.row for cell in cells_of(f"figure{number}")} == set(names) <= set(ROWS)
    assert set(LAMBDA_ABLATION) <= set(ROWS)
    planned = {*CORE, *later_cells()}
    assert {cell for n in range(1, 9) for cell in cells_of(f"table{n}")} <= planned
    for wrong in ("table0", "table15", "table1x", "figure9", "tables", "table", "1", ""):
        with pytest.raises(ValueError, match="the target must be"):
            cells_of(wrong)


def test_next_follows_the_issue():
    assert [cell.row for cell in CORE[:3]] == ["resnet-110", "in_resnet-110", "lambda_in_resnet-110"]
    later = [(ROWS[cell.row].depth, cell.dataset) for cell in later_cells()]
    first_cifar100 = later.index((110, "cifar100"))
    assert later[0] == (164, "cifar10")
    assert (None, "cifar10") not in later[:first_cifar100]
