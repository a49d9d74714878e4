"""The report: columns, worst case, Markdown and JSON."""

import dataclasses
import json

import matplotlib.pyplot as plt
import pytest
import torch

from dampode import plots, robustness
from dampode.robustness import Report
from dampode.robustness.classifier import correct
from dampode.robustness.results import pack_flags, unpack_flags
from tests.helpers.reports import PASSED, column
from tests.helpers.trained import classifier, few_digits

EPS = [4 / 255, 8 / 255, 12 / 255]


def test_columns_are_what_they_say(plain):
    (x, y), model = few_digits(), classifier()
    assert plain.n == 150
    assert plain.clean == robustness.accuracy(model, x, y)
    assert plain.names("noise") == list(robustness.SEVERITIES)
    assert plain.names("attack") == list(robustness.ATTACKS)
    assert plain.strengths("noise") == [1, 2, 3, 4, 5]
    assert plain.strengths("attack") == EPS
    moved = robustness.fgsm(model, x, y, EPS[1])
    assert torch.equal(plain.column("FGSM", EPS[1]).correct, correct(model, moved, y))
    assert plain.curve("FGSM") == ([0.0, *EPS], [plain.clean, *(plain.column("FGSM", e).accuracy for e in EPS)])
    kinds = [[plain.column(k, s).accuracy for s in range(1, 6)] for k in plain.names("noise")]
    assert plain.noise_score("shot_noise") == pytest.approx(sum(kinds[1]) / 5)
    assert plain.noise_score() == pytest.approx(sum(sum(k) / 5 for k in kinds) / 4)
    with pytest.raises(KeyError, match="no 'fog' at 1"):
        plain.column("fog", 1)
    with pytest.raises(KeyError, match=r"no 'PDG' was measured; there are .*'PGD'"):
        plain.curve("PDG")
    with pytest.raises(KeyError, match=r"no fog was measured; there are .*'shot_noise'"):
        plain.noise_score("fog")
    with pytest.raises(KeyError, match="no noise was measured"):
        Report(4, (column("clean", 0.0, 3, 4, "clean"),), PASSED, {}).noise_score()


def test_the_worst_case_is_per_image(plain):
    attacks = [c for c in plain.columns if c.group == "attack"]
    for eps in EPS:
        stays = plain.worst_case(eps)
        for k in range(plain.n):
            expected = all(c.correct[k] for c in attacks if c.strength <= eps) and plain.columns[0].correct[k]
            assert stays[k] == expected
    assert plain.robust_accuracy(EPS[2]) <= min(c.accuracy for c in attacks)
    columns = column("clean", 0.0, 3, 4, "clean"), column("RecenteredPGD", 0.1, 0, 4), column("FGSM", 0.1, 2, 4)
    assert Report(4, columns, PASSED, {}).robust_accuracy(0.1) == 0.5


def test_a_worst_case_that_was_not_measured_is_refused(plain):
    assert plain.robust_accuracy(0) == plain.clean
    with pytest.raises(
        KeyError, match=r"no attack within ε = 2/255 in linf; the radii are .'4/255', '8/255', '12/255'"
    ):
        plain.robust_accuracy(2 / 255)
    for eps, words in ((float("nan"), "eps must be finite"), (-0.1, "eps must be at least 0")):
        with pytest.raises(ValueError, match=words):
            plain.robust_accuracy(eps)


def test_columns_are_of_the_images(plain):
    clean = column("clean", 0.0, 3, 4, "clean")
    for other, n in ((column("FGSM", 0.1, 2, 3), 4), (column("longer", 0.1, 2, 5, "gradient"), 4), (clean, 5)):
        with pytest.raises(ValueError, match=f"must be of the report's {n} images, got"):
            Report(n, (clean, other), PASSED, {})
    Report(4, (clean, column("longer", 0.1, 2, 3, "gradient")), PASSED, {})
    with pytest.raises(
        ValueError, match=r"must be JSON of Report\.to_json.*of the report's 151 images, got 150 of 'clean'"
    ):
        Report.from_json(plain.to_json().replace('"n": 150', '"n": 151'))


def test_markdown_and_json_keep_everything(plain, tmp_path):
    text = plain.markdown()
    assert "| worst case |" in text
    assert "ε = 4/255" in text
    assert f"{100 * plain.noise_score():.1f}" in text
    assert "CIFAR-C-style" in text
    plain.save(tmp_path / "out")
    again = Report.from_json((tmp_path / "out" / "report.json").read_text())
    assert again.to_json() == plain.to_json()
    assert again.markdown() == text == (tmp_path / "out" / "report.md").read_text()
    assert torch.equal(again.worst_case(EPS[0]), plain.worst_case(EPS[0]))
    for damaged in ("{}", "no", plain.to_json()[:-40], plain.to_json().replace('"format": 1', '"format": 7')):
        with pytest.raises(ValueError, match=r"must be JSON of Report\.to_json"):
            Report.from_json(damaged)


def test_json_keeps_what_each_attack_is(plain):
    again = Report.from_json(plain.to_json())
    assert [c.traits for c in again.columns] == [c.traits for c in plain.columns]
    assert {c.settings for c in again.columns if c.name == "PGD" and c.group == "attack"} == {
        repr(robustness.PGD(keep="first"))
    }
    assert again.column("PGD", EPS[0]).traits == robustness.PGD().traits
    assert again.column("shot_noise", 1).traits is None


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_flags_are_packed_without_loss(n):
    flags = torch.rand(n) < 0.5
    assert torch.equal(unpack_flags(pack_flags(flags), n), flags)
    with pytest.raises(ValueError, match="flags need"):
        unpack_flags(pack_flags(flags) + "00", n)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r["checks"][0].update(passed="no"),
            "passed of the sanity check .* must be of type bool or NoneType, got str",
        ),
        (lambda r: r["checks"][0].update(passed=0), "must be of type bool or NoneType, got int"),
        (lambda r: r["checks"][0].update(passed=False), "passed True, False by its sanity checks"),
        (lambda r: r.update(checks=[]), "needs its sanity checks, got none"),
        (lambda r: r.update(settings=["a"]), "settings must be of type Mapping, got list"),
        (lambda r: r["columns"][0].update(accuracy=0.1), r"accuracy 0\.1 of 'clean', 0\.\d+ by its flags"),
        (lambda r: r["columns"][2].update(strength="2"), "must be a number, got '2'"),
        (lambda r: r["columns"][2].update(overshoot="2"), "must be a number, got '2'"),
        (lambda r: r["columns"][0].update(group="x"), "must be one of clean, noise, attack, .*, got 'x'"),
        (lambda r: r["columns"][-1].update(traits={"iterated": 1}), "missing 1 required positional argument"),
        (lambda r: r["columns"][22].update(traits=None), "must hold the attack's traits, got None for 'uniform noise'"),
        (lambda r: r["columns"][22]["traits"].update(iterated=0), "iterated must be of type bool, got int"),
        (lambda r: r["columns"].pop(0), r"needs one column of clean images, .* got \[\]"),
        (lambda r: r["columns"].append(r["columns"][1]), r"must occur once, got more of \[\('noise'"),
    ],
)
def test_a_report_that_was_changed_is_refused(plain, change, words):
    content = json.loads(plain.to_json())
    change(content)
    with pytest.raises(ValueError, match=r"must be JSON of Report\.to_json.*" + words):
        Report.from_json(json.dumps(content))


def test_what_was_not_measured_is_an_empty_cell(plain):
    gone = [("PGD", EPS[0]), ("shot_noise", 3)]
    some = dataclasses.replace(plain, columns=tuple(c for c in plain.columns if (c.name, c.strength) not in gone))
    assert "| PGD |  | " in some.markdown()
    row = next(line for line in some.markdown().splitlines() if line.startswith("| shot_noise"))
    assert row.split("|")[4].strip() == ""
    authors = column("RecenteredPGD", EPS[0], 2, 150), column("FGSM", EPS[1], 2, 150)
    report = dataclasses.replace(plain, columns=(plain.columns[0], *authors))
    assert "| worst case |  | 1.3 |" in report.markdown()
    figure, ax = plt.subplots()
    plots.accuracy_by_radius(ax, report)
    assert ax.lines[-1].get_xdata().tolist() == pytest.approx([0, 8])
    plt.close(figure)


def test_a_report_prints_as_a_line(plain):
    assert (
        repr(plain)
        == f"Report(150 images, {len(plain.columns)} columns, clean {100 * plain.clean:.1f} %, sanity checks passed)"
    )
