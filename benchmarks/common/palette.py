"""Color, marker and line of each solver, the same in every figure."""

from typing import NamedTuple

__all__ = ["OTHERS", "OURS", "STYLES", "Style", "style"]

STYLES = {
    "ExponentialAdams": "black o -",
    "ExponentialAdams, compiled": "black * --",
    "AdaptiveExponential": "C0 o -",
    "AdaptiveExponential, compiled": "C0 * --",
    "KenCarp4": "C3 s -",
    "KenCarp4, compiled": "C3 P --",
    "Krogstad4": "C8 o -",
    "Krogstad4, compiled": "C8 * --",
    "torchdiffeq dopri5": "C1 X -",
    "torchdiffeq dopri8": "C6 D -",
    "torchdiffeq bosh3": "C6 p :",
    "torchdiffeq rk4": "C6 d :",
    "torchdiffeq implicit_adams": "C6 h :",
    "torchode dopri5": "C5 p -",
    "torchode tsit5": "C5 p -",
    "diffrax Tsit5": "C7 H -",
    "diffrax Kvaerno5": "C7 > -",
    "SciPy DOP853": "gold D -",
    "SciPy BDF": "C9 ^ -",
    "SciPy LSODA": "C4 v -",
    "SciPy Radau": "C2 < -",
}
"""In the order of legends. One library's solvers may share a color; then markers and lines differ."""

OURS = tuple(name for name in STYLES if " " not in name.removesuffix(", compiled"))
OTHERS = tuple(name for name in STYLES if name not in OURS)


class Style(NamedTuple):
    """How a line is drawn."""

    color: str
    marker: str
    linestyle: str


def style(solver: str) -> Style:
    """The style of a solver; of SciPy also of its solves of one sample."""
    return Style(*STYLES[solver.removesuffix(", one sample")].split())
