"""Norms apart in a report, transferred images, and several reports in one table and one figure."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from dampode import plots
from dampode.cli.comparison import main
from dampode.robustness import FGSM, PGD, Report, UniformNoise, compare, evaluate
from tests.helpers.trained import classifier, few_digits

ATTACKS = {"FGSM": FGSM(), "PGD": PGD(steps=5), "PGD in L2": PGD(steps=5, norm="l2")}
EPS = {"linf": [8 / 255, 16 / 255], "l2": [0.25, 0.5]}


@pytest.fixture(scope="module")
def reports():
    x, y = (part[:60] for part in few_digits())
    other = classifier()
    with torch.no_grad():
        other[0].weight += 0.2 * torch.randn(other[0].weight.shape, generator=torch.Generator().manual_seed(0))
    settings = {"eps": EPS, "attacks": ATTACKS, "noises": ["shot_noise"], "severities": [5]}
    return {
        "plain": evaluate(classifier(), x, y, **settings, transfer={"other": other}),
        "other": evaluate(other, x, y, **settings, transfer={"plain": classifier()}),
    }


def test_norms_are_apart(reports):
    report = reports["plain"]
    assert report.norms == ["linf", "l2"]
    assert report.radii() == EPS["linf"]
    assert report.radii("l2") == EPS["l2"]
    assert report.names("attack", "l2") == ["PGD in L2", "transfer from other in L2"]
    clean = report.column("clean", 0.0).correct
    for norm, names in (("linf", ("FGSM", "PGD", "transfer from other")), ("l2", report.names("attack", "l2"))):
        for k, e in enumerate(EPS[norm]):
            within = [report.column(name, r).correct for name in names for r in EPS[norm][: k + 1]]
            assert torch.equal(report.worst_case(e, norm), torch.stack([clean, *within]).all(0))
            assert report.robust_accuracy(e, norm) <= min(report.column(name, e).accuracy for name in names)
    assert report.robust_accuracy(0.5, "l2") < report.robust_accuracy(0.25, "l2") < report.clean
    text = report.markdown()
    assert "| attack | ε = 8/255 | ε = 16/255 |" in text
    assert "| attack in L2 | ε = 0.25 | ε = 0.5 |" in text
    assert Report.from_json(report.to_json()).markdown() == text
    with pytest.raises(KeyError, match=r"no attack within ε = 0.1 in l2; the radii are \['0.25', '0.5'\]"):
        report.worst_case(0.1, "l2")
    figure, ax = plt.subplots()
    plots.accuracy_by_radius(ax, report, "l2")
    assert [line.get_label() for line in ax.lines] == ["PGD in L2", "transfer from other in L2", "worst case"]
    assert ax.lines[0].get_xdata().tolist() == pytest.approx([0, 0.25, 0.5])
    plt.close(figure)


def test_radii_without_a_norm_are_those_of_all_attacks():
    x, y = (part[:20] for part in few_digits())
    attacks = {"a": UniformNoise(), "b": FGSM(norm="l2")}
    report = evaluate(classifier(), x, y, eps=[0.5], attacks=attacks, noises=())
    assert report.radii() == report.radii("l2") == [0.5]
    with pytest.raises(ValueError, match="eps must hold at least one radius for the attacks"):
        evaluate(classifier(), x, y, eps={"linf": [0.1]}, attacks=attacks, noises=())
    with pytest.raises(ValueError, match="eps of l2 must not hold a value twice"):
        evaluate(classifier(), x, y, eps={"linf": [0.1], "l2": [1, 1]}, attacks=attacks, noises=())
    with pytest.raises(TypeError, match="transfer must be of type Mapping"):
        evaluate(classifier(), x, y, eps=[0.1], transfer=[classifier()])


def test_a_table_compares_the_worst_cases(reports):
    comparison = compare(reports)
    assert comparison.columns[:2] == ("clean", "noise")
    assert comparison.columns[2:4] == ("worst case, ε = 8/255", "worst case, ε = 16/255")
    assert comparison.columns[4:] == ("worst case, ε = 0.25 in L2", "worst case, ε = 0.5 in L2")
    for row in comparison.rows:
        report = reports[row.name]
        expected = [report.clean, report.noise_score(), *(report.robust_accuracy(e) for e in EPS["linf"])]
        assert row.accuracies == (*expected, *(report.robust_accuracy(e, "l2") for e in EPS["l2"]))
        cells = " | ".join(f"{100 * a:.1f}" for a in row.accuracies)
        assert f"| {row.name} | {cells} | " in comparison.markdown()
    assert comparison.rows[0].accuracies != comparison.rows[1].accuracies
    assert json.loads(comparison.to_json())["n"] == 60
    figure, ax = plt.subplots()
    plots.worst_cases(ax, reports)
    assert [line.get_label() for line in ax.lines] == ["plain", "other"]
    expected = [100 * reports["other"].robust_accuracy(e) for e in (0.0, *EPS["linf"])]
    assert ax.lines[1].get_ydata().tolist() == pytest.approx(expected)
    plt.close(figure)


def test_reports_that_do_not_fit_are_refused_in_words(reports):
    plain = reports["plain"]
    fewer = replace(plain, columns=tuple(c for c in plain.columns if (c.name, c.strength) != ("FGSM", 8 / 255)))
    steps = [replace(c, settings="PGD(steps=6)") if c.name == "PGD" else c for c in plain.columns]
    for other, words in (
        (replace(plain, settings={**plain.settings, "images": "9 images"}), "same images to be compared, but 'b'"),
        (fewer, r"same noise, attacks and settings .* only one of them has \('FGSM', 0.03"),
        (replace(plain, columns=tuple(steps)), r"only one of them has \('PGD', "),
    ):
        with pytest.raises(ValueError, match=words):
            compare({"a": plain, "b": other})
    with pytest.raises(ValueError, match="needs at least one report"):
        compare({})


def test_the_command_compares_folders(reports, tmp_path, capsys):
    for name, report in reports.items():
        report.save(tmp_path / name)
    folders = [str(tmp_path / name) for name in reports]
    main(["--reports", *folders, "--out", str(tmp_path / "out")])
    assert compare(reports).markdown() in capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["comparison.json", "comparison.md", "comparison.png", "other.png", "plain.png"]
    for flags, words in (
        ([folders[0], folders[0]], "each folder must have a name of its own"),
        ([str(tmp_path)], "No such file"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(["--reports", *flags, "--out", str(tmp_path / "out")])


def test_a_report_of_another_model_is_refused(reports):
    model = classifier()
    reports["plain"].require_same_model(model)
    read = Report.from_json(reports["plain"].to_json())
    read.require_same_model(model.train())
    with pytest.raises(ValueError, match=r"must be of the model Sequential \w+, got the report of Sequential \w+; mea"):
        reports["other"].require_same_model(model)
    with pytest.raises(ValueError, match="got the report of an unknown model"):
        replace(read, settings={}).require_same_model(model)
    with pytest.raises(TypeError, match="model must be of type Module"):
        read.require_same_model("plain")
    assert compare(reports, models={"plain": model}) == compare(reports)
    with pytest.raises(ValueError, match="'other': the report must be of the model"):
        compare(reports, models={"plain": model, "other": model})
    with pytest.raises(ValueError, match=r"must have the name of a report, \['other', 'plain'\], got 'third'"):
        compare(reports, models={"third": model})
