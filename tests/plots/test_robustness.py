import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from dampode import plots
from dampode.robustness import EnsembleGain, Landscape
from dampode.robustness.ensemble_gains import GainRow


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def bowl(images=2):
    along, across = (-1.0, 0.0, 1.0, 2.0), (-1.0, 0.0, 1.0)
    loss = torch.arange(images * 12, dtype=torch.float64).view(images, 4, 3)
    prediction = torch.zeros(images, 4, 3, dtype=torch.int64)
    prediction[:, 2:] = 7
    return Landscape(along, across, torch.zeros(images, dtype=torch.int64), loss, prediction)


def gain(*values):
    rows = tuple(GainRow(name, (0.5,), 0.5 + v, v, 0.01) for name, v in zip(("clean", "FGSM"), values, strict=True))
    return EnsembleGain(100, True, rows)


def test_gains_are_drawn_in_points_with_errors(ax):
    assert plots.ensemble_gains(ax, {"a": gain(0.1, -0.02), "b": gain(0.2, 0.03)}) is ax
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [10, -2, 20, 3])
    assert len({bar.get_hatch() for bar in ax.patches}) == 2
    assert [label.get_text() for label in ax.get_xticklabels()] == ["clean", "FGSM"]
    segments = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in segments], [2, 2])
    other = EnsembleGain(100, True, gain(0.1, 0.2).rows[:1])
    with pytest.raises(ValueError, match="same kinds of images"):
        plots.ensemble_gains(ax, {"a": gain(0.1, 0.2), "b": other})


def test_the_loss_line_is_the_mean_at_b_0(ax):
    plots.loss_along_attack(ax, {"a": bowl(), "b": bowl(1)})
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [-1, 0, 1, 2])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [7, 10, 13, 16])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [1, 4, 7, 10])


def test_predictions_carry_their_class(ax):
    plots.predictions_around(ax, bowl().image(0), [f"class {k}" for k in range(8)])
    texts = {text.get_text(): text.get_position() for text in ax.texts}
    assert set(texts) == {"class 0", "class 7"}
    assert texts["class 0"][0] <= 0 < texts["class 7"][0]
    with pytest.raises(ValueError, match="take one by landscape"):
        plots.predictions_around(ax, bowl())
    with pytest.raises(ValueError, match="a name for each class predicted, up to 7, got 2"):
        plots.predictions_around(ax, bowl().image(0), ["a", "b"])


def test_no_label_stands_on_the_cross(ax):
    axis = tuple(float(k) for k in range(-4, 5))
    flat = Landscape(axis, axis, torch.tensor([3]), torch.zeros(1, 9, 9), torch.full((1, 9, 9), 3))
    plots.predictions_around(ax, flat)
    (text,) = ax.texts
    assert text.get_text() == "3"
    assert np.hypot(*text.get_position()) >= 2


def test_a_figure_is_saved_with_its_data(ax, tmp_path):
    data = {"gain": gain(0.1, 0.2), "landscape": bowl(1), "array": np.arange(3), "n": 5}
    beside = plots.save(ax.figure, data, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").stat().st_size > 1000
    assert beside == tmp_path / "new" / "figure.json"
    stored = json.loads(beside.read_text())
    assert stored["gain"]["rows"][1]["gain"] == 0.2
    assert stored["landscape"]["loss"] == bowl(1).loss.tolist()
    assert stored["array"] == [0, 1, 2]
    with pytest.raises(TypeError, match="data of a figure must be numbers"):
        plots.save(ax.figure, {"model": torch.nn.Linear(1, 1)}, tmp_path / "other.png")
    with pytest.raises(ValueError, match="not JSON compliant"):
        plots.save(ax.figure, {"loss": float("nan")}, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
