"""The report: every column, laws that catch hidden gradients, files, resuming."""

import dataclasses
import json
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from dampode import plots, robustness
from dampode.robustness import (
    FGSM,
    IFGSM,
    PGD,
    Drawn,
    Ensemble,
    Law,
    RecenteredPGD,
    Report,
    Square,
    Transfer,
    UniformNoise,
    evaluate,
    laws,
)
from dampode.robustness.report import Column, pack, unpack
from tests.helpers.trained import classifier
from tests.helpers.trained import digits as all_digits

EPS = [4 / 255, 8 / 255, 12 / 255]
HELD = (Law("a law", True, ""),)
QUICK = {"UniformNoise": UniformNoise(), "FGSM": FGSM(), "PGD": PGD(alpha=4 / 255, steps=5)}


def digits():
    x, y = all_digits()
    return x[:150], y[:150]


@pytest.fixture(scope="module")
def plain():
    x, y = digits()
    return evaluate(classifier(), x, y, eps=EPS)


def test_a_plain_network_passes_the_laws(plain):
    assert plain.held, plain.markdown()
    assert [law.name for law in plain.laws if law.held is None] == ["a transferred attack is not stronger"]
    assert len(plain.laws) == 13


class Saturated(nn.Module):
    """Logits so large that float32 cross entropy has a gradient of exactly zero where the prediction is right."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return 1e4 * self.model(x)


class Quantized(nn.Module):
    """A front layer that rounds pixels to eight levels: its derivative is zero almost everywhere."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model((7 * x).round() / 7)


class Shattered(nn.Module):
    """Quantized, with a small smooth ripple in place of the zero derivative: gradients that lead nowhere."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model((7 * x).round() / 7 + 1e-3 * torch.sin(2000 * x))


@pytest.mark.parametrize(
    ("masked", "caught"),
    [
        (Saturated, "the gradient is not exactly zero"),
        (Quantized, "the gradient is not exactly zero"),
        (Shattered, "a search without gradients is not stronger"),
    ],
)
def test_hidden_gradients_are_caught(masked, caught):
    x, y = digits()
    report = evaluate(masked().eval(), x, y, eps=[8 / 255, 32 / 255], noises=())
    assert report.column("PGD", 8 / 255).accuracy > 0.9  # it looks robust
    assert caught in [law.name for law in report.laws if law.held is False], report.markdown()
    assert not report.held
    assert "**A law is broken" in report.markdown()
    assert "| " + caught + " | **broken** |" in report.markdown()


def test_a_weak_attack_is_caught():
    """α too small to cross the ball in its steps."""
    x, y = digits()
    report = evaluate(classifier(), x, y, eps=[24 / 255], noises=(), attacks={"PGD": PGD(alpha=1 / 255, steps=8)})
    broken = [law.name for law in report.laws if law.held is False]
    assert "twice the steps change less than 0.5 points" in broken


def test_a_transfer_that_is_stronger_is_caught():
    """The plain twin's examples break a network that hides its gradients."""
    x, y = digits()
    attacks = {"PGD": PGD(alpha=4 / 255, steps=10), "twin": Transfer(classifier(), IFGSM(keep="last"))}
    report = evaluate(Saturated().eval(), x, y, eps=[16 / 255], noises=(), attacks=attacks)
    assert "a transferred attack is not stronger" in [law.name for law in report.laws if law.held is False]


def column(kind, strength, right, n=1000, group="attack", excess=0.0):
    return Column(group, kind, kind, strength, torch.arange(n) < right, excess)


@pytest.mark.parametrize(
    ("columns", "held"),
    [
        ([column("IFGSM", 0.1, 500), column("PGD", 0.1, 503)], True),  # 3 of 1000 apart: within two standard errors
        ([column("IFGSM", 0.1, 500), column("PGD", 0.1, 510)], False),
        ([column("IFGSM", 0.1, 500), column("PGD", 0.2, 510)], None),  # nothing at one radius
    ],
)
def test_the_margin_is_two_standard_errors(columns, held):
    (law,) = (law for law in sanity_checks.check(columns) if law.name == "PGD is at least as strong as IFGSM")
    assert law.held is held


def test_every_law_can_break():
    columns = [
        column("UniformNoise", 0.1, 500),
        column("FGSM", 0.1, 600),
        column("IFGSM", 0.1, 700),
        column("IFGSM", 0.2, 720),
        column("PGD", 0.1, 800, excess=1e-3),
        column("Transfer", 0.1, 10),
        column("repeated", 0.0, 900, group="probe"),
        column("zero", 0.0, 999, group="probe"),
        column("gradient", 0.0, 900, group="probe"),
        column("more steps", 0.1, 700, group="probe"),
        column("more restarts", 0.1, 700, group="probe"),
        column("large radius", 0.5, 100, group="probe"),
        column("Square", 0.1, 700, group="probe"),
    ]
    assert [law.held for law in sanity_checks.check(columns)] == [False] * 13
    assert [law.held for law in sanity_checks.check([])] == [None] * 13


def test_columns_are_what_they_say(plain):
    (x, y), model = digits(), classifier()
    assert plain.n == 150
    assert plain.clean == robustness.accuracy(model, x, y)
    assert plain.names("noise") == list(robustness.SEVERITIES)
    assert plain.names("attack") == list(robustness.ATTACKS)
    assert plain.strengths("noise") == [1, 2, 3, 4, 5]
    assert plain.strengths("attack") == EPS
    moved = robustness.fgsm(model, x, y, EPS[1])
    assert torch.equal(plain.column("FGSM", EPS[1]).correct, robustness.correct(model, moved, y))
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
        Report(4, (column("clean", 0.0, 3, 4, "clean"),), HELD, {}).noise_score()


def test_the_worst_case_is_per_example(plain):
    attacks = [c for c in plain.columns if c.group == "attack"]
    for eps in EPS:
        stays = plain.worst_case(eps)
        for k in range(plain.n):
            expected = all(c.correct[k] for c in attacks if c.strength <= eps) and plain.columns[0].correct[k]
            assert stays[k] == expected
    assert plain.robust_accuracy(EPS[2]) <= min(c.accuracy for c in attacks)
    columns = column("clean", 0.0, 3, 4, "clean"), column("RecenteredPGD", 0.1, 0, 4), column("FGSM", 0.1, 2, 4)
    assert Report(4, columns, HELD, {}).robust_accuracy(0.1) == 0.5


def test_a_worst_case_that_was_not_measured_is_refused(plain):
    assert plain.robust_accuracy(0) == plain.clean
    with pytest.raises(KeyError, match=r"no attack within ε = 2/255; the radii are .'4/255', '8/255', '12/255'"):
        plain.robust_accuracy(2 / 255)
    for eps, words in ((float("nan"), "eps must be finite"), (-0.1, "eps must be at least 0")):
        with pytest.raises(ValueError, match=words):
            plain.robust_accuracy(eps)


def test_columns_are_of_the_images(plain):
    clean = column("clean", 0.0, 3, 4, "clean")
    for other, n in ((column("FGSM", 0.1, 2, 3), 4), (column("longer", 0.1, 2, 5, "probe"), 4), (clean, 5)):
        with pytest.raises(ValueError, match=f"must be of the report's {n} images, got"):
            Report(n, (clean, other), HELD, {})
    Report(4, (clean, column("longer", 0.1, 2, 3, "probe")), HELD, {})
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


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_flags_are_packed_without_loss(n):
    flags = torch.rand(n) < 0.5
    assert torch.equal(unpack(pack(flags), n), flags)
    with pytest.raises(ValueError, match="flags need"):
        unpack(pack(flags) + "00", n)


def test_results_do_not_depend_on_the_batch_size():
    x, y = digits()
    settings = {"eps": [8 / 255], "noises": ["shot_noise"], "attacks": QUICK}
    one, other = (evaluate(classifier(), x[:100], y[:100], batch_size=b, **settings) for b in (100, 33))
    for a, b in zip(one.columns, other.columns, strict=True):
        assert torch.equal(a.correct, b.correct)


class Scaled(nn.Module):
    """The classifier times an attribute, and with noise: what no fingerprint of tensors and names sees."""

    def __init__(self, scale=1.0, noise=0.0):
        super().__init__()
        self.model, self.scale, self.noise = classifier(), scale, noise

    def forward(self, x):
        return self.scale * self.model(x + self.noise * torch.randn_like(x))


class OfItsBatch(nn.Module):
    """The classifier of images that are normalized by their batch."""

    def __init__(self):
        super().__init__()
        self.model = classifier()

    def forward(self, x):
        return self.model(0.5 + 0.3 * (x - x.mean(0)) / (x.std(0, correction=0) + 0.1))


@pytest.mark.parametrize("build", [lambda: Scaled(noise=0.1), OfItsBatch])
def test_a_model_that_is_no_function_of_the_image_breaks_a_law(build):
    x, y = digits()
    report = evaluate(build().eval(), x, y, eps=[8 / 255], attacks={}, noises=())
    assert [law.name for law in report.laws if law.held is False] == ["the model is a function of the image"]
    assert not report.held


@pytest.mark.parametrize("where", ["model", "source"])
def test_another_function_of_the_same_tensors_is_another_model(tmp_path, where):
    x, y = digits()

    def measured(scale):
        model = Scaled(scale).eval()
        attacked = (model, {"FGSM": FGSM()}) if where == "model" else (classifier(), {"it": Transfer(model, FGSM())})
        return evaluate(attacked[0], x, y, eps=[0.1], noises=(), attacks=attacked[1], partial=tmp_path / "part.json")

    first = measured(1.0)
    assert measured(1.0).to_json() == first.to_json()
    with pytest.raises(ValueError, match=r"another model.*gives other logits than it did then"):
        measured(-1.0)


def test_one_process_writes_a_partial_file(tmp_path):
    (x, y), path = digits(), tmp_path / "part.json"
    settings = {"eps": [0.1], "noises": (), "attacks": {"FGSM": FGSM()}}
    with (
        FileLock(tmp_path / ".part.json.lock"),
        pytest.raises(OSError, match=r"only one run may write .*part\.json; another does so now"),
    ):
        evaluate(classifier(), x, y, partial=path, **settings)
    with pytest.raises(OSError, match=r"must be no folder, got the folder .*; name a file in it"):
        evaluate(classifier(), x, y, partial=tmp_path, **settings)
    with pytest.raises(OSError, match=r"folder must be writable: /proc/nowhere"):
        evaluate(classifier(), x, y, partial="/proc/nowhere/part.json", **settings)


def test_probabilities_are_said_once_and_stay_in_the_report():
    x, y = (part[:20] for part in digits())
    soft = nn.Sequential(classifier(), nn.Softmax(1)).eval()
    for model, attacks, whose in (
        (soft, QUICK, "the model"),
        (Ensemble([soft, soft]), QUICK, "the model"),
        (classifier(), {"it": Transfer(soft, FGSM())}, "the source of 'it'"),
    ):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            report = evaluate(model, x, y, eps=[0.1], noises=(), attacks=attacks)
        (only,) = [str(w.message) for w in said]
        assert only.startswith(f"the outputs of {whose} look like probabilities")
        assert report.settings["outputs"].startswith(f"those of {whose} look like probabilities")
    with pytest.warns(UserWarning, match="look like probabilities"):
        robustness.fgsm(Ensemble([soft, soft]), x, y, 0.1)


def test_one_logit_an_image_is_refused():
    x, y = digits()
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()
    for ask in (
        lambda: evaluate(binary, x, 0 * y, eps=[0.1]),
        lambda: robustness.fgsm(binary, x, 0 * y, 0.1),
        lambda: robustness.accuracy(binary, x, 0 * y),
    ):
        with pytest.raises(ValueError, match="a logit for each of two classes or more, got one logit an image"):
            ask()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["laws"][0].update(held="no"), "held of the law .* must be of type bool or NoneType, got str"),
        (lambda r: r["laws"][0].update(held=0), "must be of type bool or NoneType, got int"),
        (lambda r: r["laws"][0].update(held=False), "held True, False by its laws"),
        (lambda r: r.update(laws=[]), "needs its laws, got none"),
        (lambda r: r.update(settings=["a"]), "settings must be of type Mapping, got list"),
        (lambda r: r["columns"][0].update(accuracy=0.1), r"accuracy 0\.1 of 'clean', 0\.\d+ by its flags"),
        (lambda r: r["columns"][2].update(strength="2"), "must be a number, got '2'"),
        (lambda r: r["columns"][2].update(excess="2"), "must be a number, got '2'"),
        (lambda r: r["columns"][0].update(group="x"), "must be of a group clean, noise, attack, probe, got 'x'"),
        (lambda r: r["columns"].pop(0), r"needs one column of clean images, .* got \[\]"),
        (lambda r: r["columns"].append(r["columns"][1]), r"must be there once, got more of \[\('noise'"),
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


def test_reports_from_before_settings_were_kept_are_read(plain):
    content = json.loads(plain.to_json())
    assert {c["how"] for c in content["columns"] if c["name"] == "PGD"} == {repr(PGD())}
    for c in content["columns"]:
        del c["how"]
    assert Report.from_json(json.dumps(content)).column("PGD", EPS[0]).how == ""


class Interrupted(nn.Module):
    """Stops after some calls, as Ctrl-C would."""

    def __init__(self, calls):
        super().__init__()
        self.model, self.calls = classifier(), calls

    def extra_repr(self):
        return ""

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.model(x)


def test_an_interruption_costs_little(tmp_path):
    (x, y), path = digits(), tmp_path / "new" / "part.json"
    x, y = x[:50], y[:50]
    settings = {"eps": [8 / 255], "noises": ["shot_noise"], "attacks": QUICK, "partial": path}
    whole = evaluate(Interrupted(10**6).eval(), x, y, eps=[8 / 255], noises=["shot_noise"], attacks=QUICK)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(9).eval(), x, y, **settings)
    finished = json.loads(path.read_text())["finished"]
    assert 5 < len(finished) < len(whole.columns)
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".lock"] == ["part.json"]
    resumed = evaluate(Interrupted(10**6).eval(), x, y, **settings)
    assert resumed.to_json() == whole.to_json()
    again = evaluate(Interrupted(3).eval(), x, y, **settings)  # three calls: the checks of the input
    assert again.to_json() == whole.to_json()

    other = Interrupted(10**6).eval()
    with torch.no_grad():
        other.model[0].bias[0] += 1e-3
    for model, changed in (
        (other, settings),
        (Interrupted(10**6).eval(), {**settings, "seed": 1}),
        (Interrupted(10**6).eval(), {**settings, "attacks": {"PGD": PGD()}}),
        (Interrupted(10**6).eval(), {**settings, "noise": Drawn(0.5 * x)}),
    ):
        with pytest.raises(ValueError, match="partial measurement of another model, data or settings"):
            evaluate(model, x, y, **changed)
    with pytest.raises(ValueError, match="another model, data or settings"):
        evaluate(Interrupted(10**6).eval(), x.flip(0), y, **settings)
    text = path.read_text()
    changed = text.replace('"excess": 0.0', '"excess": 1.0', 1)
    assert changed != text
    for damaged in (text[:-30], changed, '{"identity": "a", "finished": {"clean/clean/0.0/0": null}}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"part\.json must be a partial measurement; it is damaged"):
            evaluate(Interrupted(10**6).eval(), x, y, **settings)


def test_a_seed_draws_the_same_whatever_its_integer_type():
    x, y = (part[:100] for part in digits())
    settings = {"eps": [0.1], "noises": ["gaussian_noise"], "severities": [5], "attacks": {"PGD": PGD(steps=2)}}
    expected = evaluate(classifier(), x, y, seed=3, **settings).to_json()
    for seed in (np.int64(3), torch.tensor(3)):
        assert evaluate(classifier(), x, y, seed=seed, **settings).to_json() == expected
    for seed in (3.0, True, "3", None):
        with pytest.raises(TypeError, match="a seed must be an int, got"):
            evaluate(classifier(), x, y, seed=seed, **settings)
        with pytest.raises(TypeError, match="a seed must be an int, got"):
            Drawn(x, seed)


def test_modes_come_back_and_bad_input_ends_in_words():
    x, y = digits()
    x, y = x[:20], y[:20]
    model = nn.Sequential(classifier(), nn.Dropout(0.5))
    model.train()
    model[0].eval()
    quick = {"noises": ["shot_noise"], "severities": [5], "attacks": {"FGSM": FGSM()}}
    with pytest.warns(UserWarning, match="training mode; it is measured in eval mode") as warned:
        report = evaluate(model, x, y, eps=[0.1], **quick)
    assert len(warned) == 1
    assert [m.training for m in model] == [False, True]
    assert model.training
    model.eval()
    assert report.to_json() == evaluate(model, x, y, eps=[0.1], **quick).to_json()
    for changed, error, words in (
        ({"eps": [-0.1]}, ValueError, "eps must be at least 0"),
        ({"eps": [0.1, 0.1]}, ValueError, "eps must hold none twice"),
        ({"eps": []}, ValueError, "eps must hold at least one radius"),
        ({"eps": [8]}, ValueError, "eps must be at most 1"),
        ({"severities": []}, ValueError, "severities must hold at least one"),
        ({"noises": ["fog"]}, ValueError, "noise must be one of gaussian_noise, shot_noise"),
        ({"severities": [0]}, ValueError, "severity must be 1, 2, 3, 4 or 5, got 0"),
        ({"severities": [True]}, TypeError, "severity must be an int, 1, 2, 3, 4 or 5, got True"),
        ({"attacks": {"FGSM": robustness.fgsm}}, TypeError, "attack 'FGSM' must be of type Attack"),
        ({"attacks": {"clean": FGSM()}}, ValueError, "a name of its own, got .'clean'"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive int"),
    ):
        with pytest.raises(error, match=words):
            evaluate(model, x, y, **{"eps": [0.1], **changed})
    for images, labels, words in (
        (x + 1, y, r"pixels must lie in \[0, 1\]"),
        (x[:0], y[:0], "must not be empty"),
        (x, y[:3], "one label an image"),
        (x[:, 0, 0], y, r"needs images \(N, C, H, W\), got shape \(20, 8\)"),
        (x, y + 10, r"labels must lie in \[0, 10\)"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(model, images, labels, eps=[0.1])
    with pytest.warns(UserWarning, match="look like probabilities") as warned:
        evaluate(nn.Sequential(model, nn.Softmax(1)).eval(), x, y, eps=[0.1], noises=(), attacks={"FGSM": FGSM()})
    assert len({str(w.message) for w in warned}) == 1
    with torch.no_grad():
        model[0][0].bias[0] = torch.nan
    with pytest.raises(ValueError, match="logits must be finite"):
        evaluate(model, x, y, eps=[0.1])


def test_recentered_pgd_may_go_twice_as_far(tmp_path):
    x, y = digits()
    report = evaluate(classifier(), x[:50], y[:50], eps=[0.05], noises=(), attacks={"authors": RecenteredPGD()})
    assert report.column("authors", 0.05).excess < 1e-6
    assert report.radii == []
    with pytest.raises(KeyError, match=r"no attack within ε = 12\.75/255; the radii are \[\]"):
        report.robust_accuracy(0.05)
    assert "worst case" not in report.markdown()
    figure, ax = plt.subplots()
    plots.accuracy_by_radius(ax, report)
    assert [line.get_label() for line in ax.lines] == ["authors"]
    plt.close(figure)
    assert report.held


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: IFGSM(alpha=-1), ValueError, "alpha must be above 0"),
        (lambda: IFGSM(steps=2.5), TypeError, "steps must be a positive int"),
        (lambda: PGD(steps=0), ValueError, "steps must be a positive int"),
        (lambda: PGD(alpha=2), ValueError, "alpha must be at most 1"),
        (lambda: PGD(restarts=0), ValueError, "restarts must be a positive int"),
        (lambda: PGD(keep="best"), ValueError, "keep must be"),
        (lambda: RecenteredPGD(alpha=float("nan")), ValueError, "alpha must be finite"),
        (lambda: Square(queries=0), ValueError, "queries must be a positive int"),
        (lambda: Transfer(FGSM()), TypeError, "source must be of type Module"),
        (lambda: Transfer(nn.Identity(), robustness.fgsm), TypeError, "attack must be of type Attack"),
    ],
)
def test_settings_are_checked_before_anything_is_measured(build, error, words):
    with pytest.raises(error, match=words):
        build()


def test_settings_are_printable():
    for attack in robustness.ATTACKS.values():
        assert repr(attack) == repr(dataclasses.replace(attack))


@pytest.mark.parametrize("wrong", [{"eps": 0.1}, {"severities": 3}, {"attacks": [FGSM()]}, {"noise": 3}])
def test_single_values_are_refused_in_words(wrong):
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be of type"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), x, y, **{"eps": [0.1], **wrong})


def test_attacks_are_compared_with_the_next_that_was_measured(plain):
    some = [c for c in plain.columns if c.kind != "IFGSM"]
    held = {law.name: law.held for law in sanity_checks.check(some)}
    assert held["PGD is at least as strong as FGSM"] is True
    assert held["PGD is at least as strong as IFGSM"] is None
    assert held["FGSM is at least as strong as UniformNoise"] is True


def test_a_report_prints_as_a_line(plain):
    assert (
        repr(plain) == f"Report(150 images, {len(plain.columns)} columns, clean {100 * plain.clean:.1f} %, laws held)"
    )
