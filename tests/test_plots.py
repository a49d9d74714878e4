import matplotlib.pyplot as plt
import numpy as np

from dampode import plots


def test_accuracy_curves_draw_means_in_percent():
    figure, ax = plt.subplots()
    got = plots.accuracy_curves(ax, [0, 1], {"a": [[0.9, 0.5], [0.7, 0.3]], "b": [[1.0, 0.0]]}, "severity")
    assert got is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [80, 40])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [100, 0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)


def test_coefficients_by_layer():
    figure, ax = plt.subplots()
    plots.coefficients_by_layer(ax, {"in_resnet": [[0.2, 0.4, 0.9], [0.4, 0.4, 0.7]]})
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.3, 0.4, 0.8])
    plt.close(figure)
