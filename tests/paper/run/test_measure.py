"""The two reports of a network, the columns read from them, and how the protocols differ."""

from dataclasses import replace

import pytest
import torch

from benchmarks.paper.plan.protocols import SCALES
from benchmarks.paper.plan.rows import ROWS
from benchmarks.paper.run import measure
from dampode.data import pixels
from dampode.robustness import APGD, DrawnNoise, accuracy, fgsm
from tests.paper.toy import CODE, ROW, TEXT, TOY, toy_job


def noisy_images(source, kind, severity):
    return source.block(f"{kind}_noise", severity, 0)


def test_the_columns_are_accuracies_on_the_images_they_name(images, tmp_path):
    torch.manual_seed(0)
    model = ROW.build(10, TEXT, TOY).eval()
    found = measure.reports(model, images, toy_job(), lambda name: tmp_path / f"{name}.json")
    columns = measure.columns(found)
    x, y = pixels(images.x_test), images.y_test
    assert tuple(columns) == measure.COLUMNS
    assert columns["acc"] == accuracy(model, x, y)
    assert columns["acc attacked"] == accuracy(model, x[:8], y[:8])
    assert columns["shot"] == [accuracy(model, noisy_images(DrawnNoise(x), "shot", s), y) for s in (1, 2, 3, 4, 5)]
    assert columns["fgsm 4/255"] == accuracy(model, fgsm(model, x[:8], y[:8], 4 / 255), y[:8])
    assert (found.noise.n, found.attacks.n) == (16, 8)
    assert found.attacks.names("attack") == ["uniform noise", "FGSM", "IFGSM", "PGD"]


def test_the_protocols_differ_where_they_say(images):
    x, y = pixels(images.x_test), images.y_test
    model = ROW.build(10, TEXT, TOY).eval()
    plain, code = (measure.noise_source(DrawnNoise(x), protocol) for protocol in (TEXT, CODE))
    seen = torch.cat([model.normalize(noisy_images(code, "gaussian", severity)) for severity in range(1, 6)])
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(3))
    noisy = noisy_images(plain, "gaussian", 1)
    assert torch.equal(noisy, noisy_images(plain, "gaussian", 1))
    assert torch.equal((noisy * 255).round() / 255, noisy)
    far, near = (p.pgd(model, x, y, 4 / 255, torch.Generator().manual_seed(0), 500) for p in (CODE, TEXT))
    assert 4 / 255 + 1e-3 < (far - x).abs().max() <= 8 / 255 + 1e-6
    assert (near - x).abs().max() <= 4 / 255 + 1e-6
    starts = {p.name: ROWS["in_resnet-110"].build(10, p, SCALES["small"]) for p in (TEXT, CODE)}
    anchors = {name: next(m.anchor for m in net.modules() if hasattr(m, "anchor")) for name, net in starts.items()}
    assert anchors == {"text": 0.0, "code": 1.0}


def test_the_code_protocol_is_measured_too(images, tmp_path):
    torch.manual_seed(0)
    found = measure.reports(
        ROW.build(10, CODE, TOY), images, toy_job(protocol=CODE), lambda name: tmp_path / f"{name}.json"
    )
    assert tuple(measure.columns(found)) == measure.COLUMNS
    assert "authors' protocol" in found.noise.settings["noise"]
    assert "RecenteredPGD" in found.attacks.settings["attacks"]


def test_the_landscapes_of_figure_2_are_kept_with_its_networks(images, monkeypatch):
    monkeypatch.setattr(measure, "LANDSCAPE_AXIS", (-1.0, 0.0, 1.0))
    resnet = replace(ROWS["resnet-110"], depth=14)
    assert measure.in_figure_2(toy_job(row=resnet))
    assert not measure.in_figure_2(toy_job(row=resnet, seeds=(1,)))
    assert not measure.in_figure_2(toy_job(row=resnet, scale=SCALES["small"]))
    assert not measure.in_figure_2(toy_job())
    first, second = measure.landscapes(resnet.build(10, TEXT, TOY), images)
    assert (first["labels"], second["labels"]) == ([images.y_test[2].item()], [images.y_test[13].item()])
    assert torch.tensor(first["loss"]).shape == (1, 3, 3)


def test_there_is_no_report_of_other_images(images, tmp_path):
    """A partial file of one network is not used for another."""
    torch.manual_seed(0)
    measure.reports(ROW.build(10, TEXT, TOY), images, toy_job(), lambda name: tmp_path / f"{name}.json")
    with pytest.raises(ValueError, match="another model"):
        measure.reports(ROW.build(10, TEXT, TOY), images, toy_job(), lambda name: tmp_path / f"{name}.json")


def test_at_scale_fit_one_report_holds_a_sound_attack_beside_the_papers(images, tmp_path):
    torch.manual_seed(0)
    scale = replace(TOY, radii=(2,), sound=APGD(steps=2), probed_images=4)
    found = measure.reports(
        ROW.build(10, TEXT, TOY), images, toy_job(scale=scale), lambda name: tmp_path / f"{name}.json"
    )
    expected = {"acc", "acc attacked", *measure.NOISES, "fgsm 2/255", "pgd 2/255", "apgd-ce 2/255"}
    assert set(measure.columns(found)) == expected
    probes = [column for column in found.attacks.columns if column.group == "more restarts"]
    assert [(column.name, len(column.correct)) for column in probes] == [("APGD-CE", 4)]


def test_the_effective_depth_is_measured_where_a_network_folds(images):
    torch.manual_seed(0)
    found = measure.depth_in_effect(ROW.build(10, TEXT, TOY).eval(), images)
    assert 8 < found["effective depth"] <= 14
    assert [len(shares) for shares in found["shares"]] == [2, 2, 2]
    assert len(found["accuracy without a block"]) == len(found["accuracy without later blocks"]) == 3
    gated = replace(ROWS["in_resnet_gating-110"], depth=14).build(10, TEXT, TOY).eval()
    assert measure.depth_in_effect(gated, images) is None
    assert measure.depth_in_effect(ROWS["resnext29"].build(10, TEXT, TOY), images) is None
