"""docs/paper.md is what the results give."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.paper import results_file
from benchmarks.paper.plan.protocols import SMALL
from benchmarks.paper.render.page import both_ways, page, sanity
from benchmarks.paper.render.tables import paper_table
from dampode.robustness import PGD, evaluate
from tests.helpers import ROOT
from tests.paper.render.made_up import made_up


def test_the_page_is_in_sync():
    results = results_file.read_current(results_file.RESULTS)
    assert (ROOT / "docs" / "paper.md").read_text(encoding="utf-8") == page(
        results, results_file.read_sound(results_file.RESULTS, results)
    ), "docs/paper.md is behind the results: python -m benchmarks.paper.render"


def test_results_under_settings_of_another_time_are_not_rendered(tmp_path):
    now = made_up("resnet-110", scale=SMALL)
    results_file.write(tmp_path / "resnet-110_cifar10_small_text_seed0.json", now["config"], {"failed": False})
    assert len(results_file.read_current(tmp_path)) == 1
    then = made_up("cnn-110", scale=replace(SMALL, epochs=3))
    results_file.write(tmp_path / "cnn-110_cifar10_small_text_seed0.json", then["config"], {"failed": False})
    with pytest.raises(ValueError, match=r"recipe\.epochs is 3 there and \d+ here"):
        results_file.read_current(tmp_path)


def test_without_results_every_row_is_not_run():
    text = page([])
    assert "ours (" not in text.split("## Small scale")[1]
    for number in range(1, 9):
        rows = paper_table(number, []).splitlines()[2:]
        assert len(rows) == 2 * len({row.split(" | ")[0] for row in rows[::2]})
        assert all("not run" in row for row in rows[1::2])


def test_what_was_measured_comes_first_and_the_rest_is_folded():
    text = page([made_up("resnet-110", scale=SMALL)])
    assert text.index("## Small scale") < text.index("## Full scale: claims") < text.index("### Table 1")
    assert text.count("<details>") == text.count("</details>") == 1 + 8
    text = page([made_up("resnet-110")])  # in all tables but 7, which is of CIFAR-100
    assert [n for n in range(1, 9) if f"<summary>The paper's Table {n}; ours: not run" in text] == [7]


def test_reports_that_break_a_sanity_check_are_named():
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 4, 4), torch.arange(8) % 3
    sound = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    forgetful = torch.nn.Sequential(torch.nn.Flatten(), Shaken(), torch.nn.Linear(48, 3)).eval()
    reports = [json.loads(evaluate(m, x, y, attacks={}, noises=()).to_json()) for m in (sound, forgetful)]
    with_report = [made_up("resnet-110", (seed,)) | {"reports": {"noise": r}} for seed, r in enumerate(reports)]
    assert "with reports: 1. Results with accuracies only: 1. No report breaks" in sanity(
        [with_report[0], made_up("cnn-110")]
    )
    assert sanity(with_report).splitlines()[-1] == "| resnet-110 | cifar10 | [1] | noise |"
    assert "with reports" in sanity([])


def test_a_network_measured_both_ways_is_shown_with_both():
    torch.manual_seed(0)
    x, y = torch.rand(8, 3, 4, 4), torch.arange(8) % 3
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    report = evaluate(model, x, y, eps=[1 / 255, 2 / 255, 4 / 255], attacks={"PGD": PGD()}, noises=())
    result = made_up("resnet-110", scale=SMALL)
    table = both_ways([(result, {"report": json.loads(report.to_json())})])
    sound = [f"{100 * report.robust_accuracy(e / 255):.2f}" for e in (1, 2, 4)]
    printed = [f"{100 * result['accuracy'][f'pgd {e}/255']:.2f}" for e in (1, 2, 4)]
    cells = [cell for pair in zip(printed, sound, strict=True) for cell in pair]
    assert table.splitlines()[-1].split(" | ", 1)[1] == " | ".join(cells) + " |"
    assert "not kept" in both_ways([])


class Shaken(torch.nn.Module):
    """Adds random numbers, so that the same image gives other logits each time."""

    def forward(self, x):
        return x + torch.randn_like(x)
