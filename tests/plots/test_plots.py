import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from scipy.stats import binomtest

from dampode import plots


def test_accuracy_curves_draw_means_in_percent():
    figure, ax = plt.subplots()
    got = plots.accuracy_curves(ax, [0, 1], {"a": [[0.9, 0.5], [0.7, 0.3]], "b": [[1.0, 0.0]]}, "severity")
    assert got is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [80, 40])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [100, 0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)


def test_intervals_are_those_of_wilson():
    low, high = plots.wilson([0.0, 0.5, 0.9], 100)
    want = [binomtest(k, 100).proportion_ci(method="wilson") for k in (0, 50, 90)]
    np.testing.assert_allclose(low, [found.low for found in want], atol=1e-9)
    np.testing.assert_allclose(high, [found.high for found in want], atol=1e-9)
    with pytest.raises(ValueError, match="n must be"):
        plots.wilson(0.5, 0)


def test_accuracy_curves_draw_intervals():
    figure, ax = plt.subplots()
    plots.accuracy_curves(ax, [0, 1], {"a": [[0.9, 0.5]]}, "severity", images=100)
    (bars,) = (c for c in ax.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(
        [s[:, 1] for s in bars.get_segments()], 100 * np.transpose(plots.wilson([0.9, 0.5], 100))
    )
    plt.close(figure)


def test_coefficients_by_layer():
    figure, ax = plt.subplots()
    plots.coefficients_by_layer(ax, {"in_resnet": [[0.2, 0.4, 0.9], [0.4, 0.4, 0.7]]})
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.3, 0.4, 0.8])
    plt.close(figure)


def curves(ax, data):
    return plots.accuracy_curves(ax, [1, 2], data, "severity")


@pytest.mark.parametrize(
    ("draw", "data", "words"),
    [
        (curves, {}, "at least one curve, got none"),
        (curves, {"a": [0.5, 0.6]}, r"the curve 'a' must be rows of 2 numbers, one row per seed, got \[0\.5, 0\.6\]"),
        (curves, {"a": [[0.5, 0.6, 0.7]]}, "must be rows of 2 numbers"),
        (curves, {"a": [[0.5, 0.6], [0.5]]}, "must be rows of 2 numbers"),
        (plots.coefficients_by_layer, {"a": [0.1, 0.2]}, "must be rows of numbers, as many in each"),
        (plots.coefficients_by_layer, {"a": []}, "must be rows of numbers, as many in each"),
        (plots.growth_by_layer, {"a": [[0.1, 0.2]]}, "must be rows of numbers, as many in each"),
        (plots.loss_along_attack, {}, "at least one model, got none"),
    ],
)
def test_data_that_are_no_curves_are_refused_in_words(draw, data, words):
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match=words):
        draw(ax, data)
    plt.close(figure)


def test_tensors_of_a_graph_are_drawn():
    figure, (left, right) = plt.subplots(1, 2)
    lam = torch.tensor([[0.25, 0.5]], requires_grad=True)
    plots.coefficients_by_layer(left, {"a": lam, "b": list(2 * lam)})
    np.testing.assert_array_equal(left.lines[1].get_ydata(), [0.5, 1])
    plots.spectrum_shift(right, torch.complex(lam, lam), 0.5, lambda lam: 1.0)
    plt.close(figure)
