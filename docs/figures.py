"""The drawings of the pages: `draw` makes them for the site, `python docs/figures.py` makes the README's figure."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.integrators import ExponentialEuler
from dampode.weighting import one_plus

__all__ = ["draw", "readme"]

DOCS = Path(__file__).parent
THEMES = {"light": "#24292f", "dark": "#d0d7de"}
DAMPINGS = (0, 1, 10, 100, 1000, 10000)
OURS, RIVAL = "#0072b2", "#d55e00"  # two colours that every reader can tell apart


def draw(folder: Path) -> None:
    """Write every drawing of the site into a folder, for the light and for the dark theme."""
    folder.mkdir(parents=True, exist_ok=True)
    for theme, ink in THEMES.items():
        names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        with plt.rc_context(dict.fromkeys(names, ink) | {"svg.hashsalt": "dampode"}):
            for name, figure in (("damping", damping(ink)), ("decision", decision(ink))):
                figure.savefig(folder / f"{name}_{theme}.svg", transparent=True, metadata={"Date": None})
                plt.close(figure)


def damping(ink: str) -> plt.Figure:
    """What one layer makes of a ring of inputs, from λ = 0, x + f(x), to λ → ∞, f(x)."""
    torch.manual_seed(0)
    f = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2)).requires_grad_(False)
    f[0].weight.mul_(3)
    f[2].weight.mul_(4)
    angle = torch.linspace(0, 2 * torch.pi, 241)
    x = torch.stack((angle.cos(), angle.sin()), 1)
    fx = f(x)
    panels = {0.0: "λ = 0\nResNet, x + f(x)", 0.5: "λ = 0.5", 1.0: "λ = 1", 4.0: "λ = 4", 1e4: "λ → ∞\nCNN, f(x)"}
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 2.9), sharex=True, sharey=True, layout="constrained")
    for ax, (lam, title) in zip(axes, panels.items(), strict=True):
        func = DampedODEFunc(lambda state: fx, Constant(lam), one_plus)
        paths = odeint(func, x, torch.linspace(0.0, 1.0, 40), ExponentialEuler())
        ax.plot(*x.T, color=ink, lw=0.8, ls=":")
        for start in range(0, 240, 20):
            ax.plot(*paths[:, start].T, color=ink, lw=0.6, alpha=0.5)
        ax.scatter(*paths[-1].T, c=angle, cmap="hsv", s=6)
        ax.set_title(title, fontsize=12)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[:].set_visible(False)
    return figure


def decision(ink: str) -> plt.Figure:
    """Questions from top to bottom; the answer "yes" leads right to an integrator."""
    rows = (
        ("A layer of a network,\none step, as in the paper?", "LinearizedEuler() or ExponentialEuler()"),
        ("The same number of calls of f\nfor every input?", "Krogstad4(steps=n)"),
        ("The equilibrium,\nt1 = ∞?", "SteadyState()"),
        ("Is f itself stiff, or is\nρ = 1 + λ with λ above 300?", "KenCarp4()"),
        ("Little memory per sample,\nor a jump every few steps?", "AdaptiveExponential()"),
    )
    figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
    box = {"boxstyle": "round,pad=0.5", "fc": "none", "lw": 1.2}
    for k, (question, answer) in enumerate(rows):
        y = -1.25 * k
        ax.text(0, y, question, ha="center", va="center", bbox=box | {"ec": ink})
        ax.text(1.75, y, answer, va="center", family="monospace", bbox=box | {"ec": OURS})
        arrow(ax, (1.1, y), (1.6, y), "yes", ink)
        arrow(ax, (0, y - 0.37), (0, y - 0.88), "no", ink)
    y = -1.25 * len(rows)
    ax.text(0, y, "ExponentialAdams()", ha="center", va="center", family="monospace", bbox=box | {"ec": OURS})
    ax.text(1.1, y, "the default", va="center")
    ax.set(xlim=(-1.1, 4.9), ylim=(y - 0.5, 0.5))
    ax.axis("off")
    return figure


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], word: str, ink: str) -> None:
    """An arrow with a word above it or beside it."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": ink})
    shift = (0, 0.12) if start[1] == end[1] else (0.14, 0)
    ax.text((start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1], word, ha="center", va="center")


def readme() -> None:
    """Calls of f and seconds against λ, for a relative error of 1e-3: docs/cost_of_damping.png."""
    path = DOCS.parent / "benchmarks" / "results" / "work_precision.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["results"]
    styles = {"ExponentialAdams": (OURS, (-8, -16)), "torchdiffeq dopri5": (RIVAL, (-12, 2))}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    for ax, key, label in zip(axes, ("calls", "forward s"), ("calls of f", "seconds"), strict=True):
        for solver, (color, shift) in styles.items():
            values = [measured[f"MLP, λ = {lam}, ρ = 1"][solver]["0.001"][key] for lam in DAMPINGS]
            ax.plot(range(len(DAMPINGS)), values, "o-", color=color)
            end = (len(DAMPINGS) - 1, values[-1])
            ax.annotate(solver, end, shift, textcoords="offset points", ha="right", color=color)
        ax.set(yscale="log", xlabel="damping λ", ylabel=label, xticks=range(len(DAMPINGS)))
        ax.set_xticklabels(f"{lam:,}" for lam in DAMPINGS)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Cost of a relative error of 1e-3: MLP, 64 numbers per sample, batch 256", fontsize=11)
    figure.savefig(DOCS / "cost_of_damping.png", dpi=160)
    plt.close(figure)


if __name__ == "__main__":
    readme()
