"""The figure of what ensembles gain."""

from collections.abc import Mapping
from itertools import cycle

from matplotlib.axes import Axes

from dampode.robustness import EnsembleGain

__all__ = ["ensemble_gains"]

HATCHES = ("", "//", "..", "xx", "--", "oo")
"""One per model, so that bars can be told apart without color."""


def ensemble_gains(ax: Axes, gains: Mapping[str, EnsembleGain]) -> Axes:
    """The gain of ensembles over their mean member, in percentage points, as in the paper's Figs. 3, 7 and 8.

    An error bar is one standard error to either side.

    Args:
        ax: where to draw.
        gains: model name -> gain. All gains must have the same rows.

    Returns:
        The same Axes.

    Raises:
        ValueError: there are no gains, or their rows differ.
    """
    row_names = {tuple(row.name for row in gain.rows) for gain in gains.values()}
    if len(row_names) != 1:
        raise ValueError(f"there must be gains, all of the same kinds of images, got {sorted(row_names)}")
    (names,) = row_names
    width = 0.8 / len(gains)
    for k, (hatch, (model, gain)) in enumerate(zip(cycle(HATCHES), gains.items(), strict=False)):
        ax.bar(
            [i + (k - (len(gains) - 1) / 2) * width for i in range(len(names))],
            [100 * row.gain for row in gain.rows],
            width,
            yerr=[100 * row.standard_error for row in gain.rows],
            label=model,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.8,
            alpha=0.7,
            error_kw={"linewidth": 1, "capsize": 3},
        )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    ax.set_ylabel("gain over the mean single model (points)")
    ax.grid(alpha=0.3, axis="y")
    ax.set_axisbelow(True)
    ax.legend(frameon=False)
    return ax
