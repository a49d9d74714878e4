"""dampode: networks as integrated damped ODEs, dx/dt = −λ x + ρ(λ) f(x, t)."""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

from dampode import (
    damping,
    data,
    fields,
    functional,
    integrators,
    models,
    paths,
    robustness,
    sequence,
    weighting,
)
from dampode.block import DampedBlock, EquilibriumBlock, Transition
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField
from dampode.integrators import EventSolution, Jumps, Solution
from dampode.trajectory import odeint, odeint_event, solve

if TYPE_CHECKING:
    from dampode import plots, stability, training

__version__ = version("dampode")

__all__ = [
    "DampedBlock",
    "DampedODEFunc",
    "EquilibriumBlock",
    "EventSolution",
    "Jumps",
    "Solution",
    "Transition",
    "VectorField",
    "__version__",
    "damping",
    "data",
    "fields",
    "functional",
    "integrators",
    "models",
    "odeint",
    "odeint_event",
    "paths",
    "plots",
    "robustness",
    "sequence",
    "solve",
    "stability",
    "training",
    "weighting",
]


def __getattr__(name: str) -> ModuleType:
    """Import these on first use: plots needs Matplotlib, stability SciPy, training accelerate and tqdm."""
    if name in ("plots", "stability", "training"):
        return import_module(f"dampode.{name}")
    raise AttributeError(f"module 'dampode' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those not yet imported included."""
    return __all__
