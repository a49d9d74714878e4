"""Figures of loss landscapes around images."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from scipy import ndimage

from dampode.plots.styles import MARKERS
from dampode.robustness import Landscape

__all__ = ["loss_along_attack", "predictions_around"]

ALONG, ACROSS = "FGSM direction, in 1/255", "orthogonal direction, in 1/255"


def loss_along_attack(ax: Axes, landscapes: Mapping[str, Landscape]) -> Axes:
    """The loss along each model's own FGSM direction, as in the paper's Figs. 2 (a) and (d).

    For several images, the mean is drawn with a band of one standard error.

    Args:
        ax: where to draw.
        landscapes: model name -> landscape.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no landscapes.
    """
    if not landscapes:
        raise ValueError("a figure needs the landscape of at least one model, got none")
    for marker, (name, landscape) in zip(cycle(MARKERS), landscapes.items(), strict=False):
        loss = landscape.line.numpy()  # (N, A)
        mean = loss.mean(0)
        error = loss.std(0) / math.sqrt(len(loss)) if len(loss) > 1 else 0.0
        every = max(1, len(landscape.along) // 10)
        (line,) = ax.plot(landscape.along, mean, marker=marker, markersize=5, markevery=every, label=name)
        ax.fill_between(landscape.along, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.axvline(0, color="gray", linewidth=0.8, linestyle="--")
    ax.set(xlabel=ALONG, ylabel="cross entropy")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def predictions_around(ax: Axes, landscape: Landscape, classes: Sequence[str] | None = None) -> Axes:
    """The predicted class around one image, as in the paper's Figs. 2 (b), (c), (e) and (f).

    The region of the true class is white, other regions are shaded. Lines are borders, and each region is labeled with
    its class. A cross marks the image.

    Args:
        ax: where to draw.
        landscape: the landscape of one image, such as ``landscape.image(n)``.
        classes: names of the classes; by default their numbers are written.

    Returns:
        The same Axes.

    Raises:
        ValueError: the landscape has several images or an axis of one point, or a predicted class has no name.
    """
    if len(landscape.labels) != 1 or min(len(landscape.along), len(landscape.across)) < 2:
        raise ValueError(
            f"one image with at least 2 x 2 points is needed, got {tuple(landscape.prediction.shape)}; "
            "take one by landscape.image(n)"
        )
    grid = landscape.prediction[0].T.numpy()  # (B, A), so that a points to the right
    at_image = np.zeros_like(grid, dtype=bool)  # a label must not stand on the cross
    at_image[np.abs(landscape.across).argmin(), np.abs(landscape.along).argmin()] = True
    if classes is not None and len(classes) <= grid.max():
        raise ValueError(f"classes must have a name for each class predicted, up to {grid.max()}, got {len(classes)}")
    label = int(landscape.labels[0])
    tints = 0.5 + 0.5 * colormaps["tab10"](grid % 10)[..., :3]  # (B, A, RGB)
    colors = np.where((grid == label)[..., None], 1.0, tints)
    ax.pcolormesh(landscape.along, landscape.across, colors, shading="nearest", rasterized=True)
    for k in np.unique(grid):
        inside = grid == k
        if not inside.all():
            ax.contour(landscape.along, landscape.across, inside, levels=[0.5], colors="black", linewidths=0.8)
        for row, column in _middles(inside & ~at_image):
            ax.text(
                landscape.along[column],
                landscape.across[row],
                str(k) if classes is None else classes[k],
                ha="center",
                va="center",
                fontweight="bold" if k == label else "normal",
            )
    ax.plot(0, 0, marker="+", color="black", markersize=9)
    ax.set(xlabel=ALONG, ylabel=ACROSS, aspect="equal")
    return ax


def _middles(inside: np.ndarray) -> list[tuple[int, int]]:
    """For each connected region of at least 1 % of the grid, the point farthest from the region's border."""
    regions, count = ndimage.label(inside)
    middles = []
    for region in range(1, count + 1):
        mask = regions == region
        if mask.mean() >= 0.01:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            middles.append((int(row), int(column)))
    return middles
