import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from dampode.robustness import FGSM, Ensemble, Report, accuracy, ensemble_gain, evaluate, fgsm
from dampode.robustness.results import Column, SanityCheck

SETTINGS = {"noise": "drawn", "seed": "0", "attacks": "", "images": "4"}
EPS = 2 / 255


def column(name, right, strength=0.0):
    group = name if name == "clean" else "noise" if name.endswith("noise") else "attack"
    traits = FGSM().traits if group == "attack" else None
    return Column(group, name, strength, torch.tensor(right, dtype=torch.bool), traits=traits)


def report(*columns):
    return Report(4, columns, (SanityCheck("a check", True, ""),), SETTINGS)


def member(clean, noise, attacked):
    return report(column("clean", clean), column("shot_noise", noise, 1.0), column("FGSM", attacked, EPS))


A = member([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
B = member([1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0])
BOTH = member([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0])


def test_the_gain_by_hand():
    """Members right on 2 of 4 each, the ensemble on 3: image by image the gain is 0, 1/2, 1/2, 0."""
    gain = ensemble_gain([A, B], BOTH)
    clean, noise, attacked = gain.rows
    assert [row.name for row in gain.rows] == ["clean", "noise", "FGSM 2/255"]
    assert (clean.members, clean.ensemble, clean.gain) == ((0.5, 0.5), 0.75, 0.25)
    assert clean.standard_error == pytest.approx(0.25 / 4**0.5)
    assert (noise.members, noise.ensemble, noise.gain) == ((0.25, 0.25), 0.5, 0.25)
    assert (attacked.members, attacked.ensemble, attacked.gain) == ((0.0, 0.25), 0.5, 0.375)
    assert json.loads(gain.to_json())["rows"][2]["gain"] == 0.375
    assert gain.markdown().splitlines()[-1] == "| FGSM 2/255 | 12.50 | 50.00 | 37.50 | 20.73 |"


def test_the_paper_s_noise_is_the_mean_of_all_groups_and_severities():
    def noisy(*rows):
        return report(
            column("clean", [1, 1, 1, 1]),
            *(column(f"{k // 2}_noise", row, float(k % 2 + 1)) for k, row in enumerate(rows)),
        )

    single = noisy([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    ensemble = noisy([1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0])
    row = ensemble_gain([single], ensemble).rows[1]
    assert row.members == (pytest.approx(single.noise_score()),)
    assert row.ensemble == pytest.approx(ensemble.noise_score())
    assert row.gain == pytest.approx(3 / 16)


def test_what_not_all_have_is_no_row():
    extra = replace(BOTH, columns=(*BOTH.columns, column("PGD", [0, 0, 0, 0], EPS), column("FGSM", [0] * 4, 2 * EPS)))
    some = replace(A, columns=(*A.columns, column("PGD", [0, 0, 0, 0], EPS)))
    assert [row.name for row in ensemble_gain([some, B], extra).rows] == ["clean", "noise", "FGSM 2/255"]


def test_an_attack_of_other_settings_is_another_attack():
    """PGD of 1 step on the member and of 40 on the ensemble would be called a loss of the ensemble."""

    def attacked(settings):
        return replace(A, columns=(*A.columns[:-1], replace(A.columns[-1], settings=settings)))

    with pytest.raises(
        ValueError, match=r"must have the same settings, got 'FGSM' as \['PGD\(steps=1\)', 'PGD\(steps=40\)'\]"
    ):
        ensemble_gain([attacked("PGD(steps=1)")], attacked("PGD(steps=40)"))
    assert len(ensemble_gain([attacked("PGD(steps=1)")] * 2, attacked("PGD(steps=1)")).rows) == 3


@pytest.mark.parametrize(("passed", "words"), [(False, "failed"), (None, "not checked")])
def test_a_sanity_check_that_did_not_pass_marks_the_gain(passed, words):
    other = replace(B, checks=(SanityCheck("a check", passed, ""),))
    assert ensemble_gain([A, B], BOTH).passed is True
    assert "**" not in ensemble_gain([A, B], BOTH).markdown()
    gain = ensemble_gain([A, other], BOTH)
    assert gain.passed is passed
    assert f"sanity checks of all reports behind this table together: {words}.**" in gain.markdown()


def test_reports_of_networks():
    """Every number, computed again with `accuracy`; twins gain nothing."""

    def net(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).eval()

    members = [net(0), net(1), net(2)]
    ensemble = Ensemble(members)
    x = torch.rand(50, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    y = members[0](x).argmax(1)

    def measured(model, x=x):
        return evaluate(model, x, y, eps=[0.1], attacks={"FGSM": FGSM()}, noises=["shot_noise"])

    reports = [measured(model) for model in members]
    clean, _, attacked = ensemble_gain(reports, measured(ensemble)).rows
    assert clean.ensemble == pytest.approx(accuracy(ensemble, x, y))
    assert attacked.ensemble == pytest.approx(accuracy(ensemble, fgsm(ensemble, x, y, 0.1), y))
    assert attacked.members == pytest.approx([accuracy(m, fgsm(m, x, y, 0.1), y) for m in members])
    twins = ensemble_gain([reports[1], reports[1]], measured(Ensemble([members[1], members[1]])))
    assert [row.gain for row in twins.rows] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"same images, got .*50, with their labels of SHA-256"):
        ensemble_gain(reports, measured(ensemble, x.flip(0)))


def test_refusals():
    with pytest.raises(ValueError, match="at least one member, got none"):
        ensemble_gain([], BOTH)
    with pytest.raises(ValueError, match=r"same number of images, got \[4, 5\]"):
        ensemble_gain([replace(A, n=5, columns=(column("clean", [1] * 5),))], BOTH)
    with pytest.raises(ValueError, match=r"same seed, got \['0', '1'\]"):
        ensemble_gain([replace(A, settings=SETTINGS | {"seed": "1"})], BOTH)
    with pytest.raises(ValueError, match=r"same noise, got \[\('drawn',\), \('drawn', 'shot_noise'\)\]"):
        ensemble_gain([replace(A, columns=A.columns[:1])], BOTH)
    with pytest.raises(ValueError, match=r"same severities, got \[\(1\.0,\), \(2\.0,\)\]"):
        ensemble_gain([replace(A, columns=(A.columns[0], column("shot_noise", [1] * 4, 2.0)))], BOTH)
