"""`evaluate`: reproducible draws, resuming, and bad input."""

import json
import warnings

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from dampode import robustness
from dampode.robustness import FGSM, PGD, DrawnNoise, Ensemble, Transfer, UniformNoise, evaluate
from tests.helpers.trained import classifier, few_digits

QUICK = {"UniformNoise": UniformNoise(), "FGSM": FGSM(), "PGD": PGD(alpha=4 / 255, steps=5)}


def test_results_do_not_depend_on_the_batch_size():
    x, y = few_digits()
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


@pytest.mark.parametrize("where", ["model", "source"])
def test_another_function_of_the_same_tensors_is_another_model(tmp_path, where):
    x, y = few_digits()

    def measured(scale):
        model = Scaled(scale).eval()
        attacked = (model, {"FGSM": FGSM()}) if where == "model" else (classifier(), {"it": Transfer(model, FGSM())})
        return evaluate(attacked[0], x, y, eps=[0.1], noises=(), attacks=attacked[1], partial=tmp_path / "part.json")

    first = measured(1.0)
    assert measured(1.0).to_json() == first.to_json()
    with pytest.raises(ValueError, match=r"another model.*gives other logits than it did then"):
        measured(-1.0)


def test_one_process_writes_a_partial_file(tmp_path):
    (x, y), path = few_digits(), tmp_path / "part.json"
    settings = {"eps": [0.1], "noises": (), "attacks": {"FGSM": FGSM()}}
    with (
        FileLock(tmp_path / ".part.json.lock"),
        pytest.raises(OSError, match=r"only one run may write .*part\.json; another does so now"),
    ):
        evaluate(classifier(), x, y, partial=path, **settings)
    with pytest.raises(OSError, match=r"must not be a folder, got the folder .*; name a file in it"):
        evaluate(classifier(), x, y, partial=tmp_path, **settings)
    with pytest.raises(OSError, match=r"folder must be writable: /proc/nowhere"):
        evaluate(classifier(), x, y, partial="/proc/nowhere/part.json", **settings)


def test_probabilities_are_said_once_and_stay_in_the_report():
    x, y = (part[:20] for part in few_digits())
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
    x, y = few_digits()
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()
    for ask in (
        lambda: evaluate(binary, x, 0 * y, eps=[0.1]),
        lambda: robustness.fgsm(binary, x, 0 * y, 0.1),
        lambda: robustness.accuracy(binary, x, 0 * y),
    ):
        with pytest.raises(ValueError, match="a logit for each of two classes or more, got one logit per image"):
            ask()


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
    (x, y), path = few_digits(), tmp_path / "new" / "part.json"
    x, y = x[:50], y[:50]
    settings = {"eps": [8 / 255], "noises": ["shot_noise"], "attacks": QUICK, "partial": path}
    whole = evaluate(Interrupted(10**6).eval(), x, y, eps=[8 / 255], noises=["shot_noise"], attacks=QUICK)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(11).eval(), x, y, **settings)
    finished = json.loads(path.read_text())["finished"]
    assert 5 < len(finished) < len(whole.columns)
    assert [p.name for p in path.parent.iterdir() if p.suffix != ".lock"] == ["part.json"]
    resumed = evaluate(Interrupted(10**6).eval(), x, y, **settings)
    assert resumed.to_json() == whole.to_json()
    again = evaluate(Interrupted(5).eval(), x, y, **settings)  # five calls: the checks of the input
    assert again.to_json() == whole.to_json()

    other = Interrupted(10**6).eval()
    with torch.no_grad():
        other.model[0].bias[0] += 1e-3
    for model, changed in (
        (other, settings),
        (Interrupted(10**6).eval(), {**settings, "seed": 1}),
        (Interrupted(10**6).eval(), {**settings, "attacks": {"PGD": PGD()}}),
        (Interrupted(10**6).eval(), {**settings, "noise": DrawnNoise(0.5 * x)}),
    ):
        with pytest.raises(ValueError, match="partial measurement of another model, data or settings"):
            evaluate(model, x, y, **changed)
    with pytest.raises(ValueError, match="another model, data or settings"):
        evaluate(Interrupted(10**6).eval(), x.flip(0), y, **settings)
    text = path.read_text()
    changed = text.replace('"overshoot": 0.0', '"overshoot": 1.0', 1)
    assert changed != text
    for damaged in (text[:-30], changed, '{"identity": "a", "finished": {"clean/clean/0.0/0": null}}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"part\.json must be a partial measurement; it is damaged"):
            evaluate(Interrupted(10**6).eval(), x, y, **settings)


def test_a_seed_draws_the_same_whatever_its_integer_type():
    x, y = (part[:100] for part in few_digits())
    settings = {"eps": [0.1], "noises": ["gaussian_noise"], "severities": [5], "attacks": {"PGD": PGD(steps=2)}}
    expected = evaluate(classifier(), x, y, seed=3, **settings).to_json()
    for seed in (np.int64(3), torch.tensor(3)):
        assert evaluate(classifier(), x, y, seed=seed, **settings).to_json() == expected
    for seed in (3.0, True, "3", None):
        with pytest.raises(TypeError, match="a seed must be an int, got"):
            evaluate(classifier(), x, y, seed=seed, **settings)
        with pytest.raises(TypeError, match="a seed must be an int, got"):
            DrawnNoise(x, seed)


def test_modes_come_back_and_bad_input_ends_in_words():
    x, y = few_digits()
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
        ({"eps": [-0.1]}, ValueError, "eps must be above 0, got -0.1"),
        ({"eps": [0.1, 0]}, ValueError, "eps must be above 0, got 0; clean accuracy is measured without an attack"),
        ({"eps": [0.1, 0.1]}, ValueError, "eps must not hold a value twice"),
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
        (x, y[:3], "one label per image"),
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


@pytest.mark.parametrize("wrong", [{"eps": 0.1}, {"severities": 3}, {"attacks": [FGSM()]}, {"noise": 3}])
def test_single_values_are_refused_in_words(wrong):
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be of type"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), x, y, **{"eps": [0.1], **wrong})


def test_logits_that_ignore_the_image_are_refused():
    x, y = (part[:20] for part in few_digits())
    dead = classifier()
    with torch.no_grad():
        dead[2].weight.zero_()
        dead[2].bias.fill_(-1)
    quick = {"eps": [0.1], "noises": (), "attacks": {"noise": robustness.UniformNoise()}}
    with pytest.raises(ValueError, match="the model gives the same logits for all of the first 20 images; check that"):
        evaluate(dead, x, y, **quick)
    with pytest.raises(ValueError, match="the source of 'transfer from dead' gives the same logits"):
        evaluate(classifier(), x, y, transfer={"dead": dead}, **quick)
    evaluate(classifier(), x[:1].expand(20, -1, -1, -1), y, **quick)  # equal images may have equal logits
    evaluate(dead, x[:3], y[:3], **quick)  # too few images to tell
