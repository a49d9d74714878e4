"""The published reports are in today's form, and their table is read from them."""

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
