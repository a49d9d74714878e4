"""The published reports are in today's form, and the tables on the pages are read from the results."""

import json
import re

import pytest

from dampode.robustness import Report
from tests.helpers import ROOT

FOLDER = ROOT / "benchmarks" / "results" / "cifar10_report"
NETWORKS = ("resnet", "in_resnet", "lambda_in_resnet", "cnn")


def stored(network):
    return Report.from_json((FOLDER / network / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_published_report_is_that_of_its_json(network):
    assert stored(network).markdown() == (FOLDER / network / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_table_of_published_reports_is_theirs(network):
    report, radii = stored(network), [k / 255 for k in (1, 2, 4, 8)]
    accuracies = [report.clean, report.noise_score()]
    accuracies += [report.column(attack, e).accuracy for attack in ("FGSM", "PGD") for e in radii]
    accuracies += [report.robust_accuracy(e) for e in radii]
    failed = sum(check.passed is False for check in report.checks)
    cells = " | ".join([network, *(f"{100 * a:.1f}" for a in accuracies), str(failed)])
    assert f"| {cells} |" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_speeds_on_the_page_are_the_measured_ones():
    rows = json.loads((ROOT / "benchmarks" / "results" / "attack_speed.json").read_text())["rows"]
    measured = [(f"{row['images_per_s']:.1f}", f"{100 * row['robust_accuracy']:.1f}") for row in rows]
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    table = page[page.index("| attack | images per second |") :].split("\n\n")[0]
    assert re.findall(r"\| ([\d.]+) \| ([\d.]+) \|", table) == measured
