"""dampode: networks as integrated damped ODEs, dx/dt = −λ x + ρ(λ) f(x, t)."""

from importlib.metadata import version

from dampode import damping, data, functional, integrators, models, robustness, stability, weighting
from dampode.block import DampedBlock, Transition
from dampode.dynamics import DampedODEFunc
from dampode.trajectory import odeint, solve

__version__ = version("dampode")

__all__ = [
    "DampedBlock",
    "DampedODEFunc",
    "Transition",
    "__version__",
    "damping",
    "data",
    "functional",
    "integrators",
    "models",
    "odeint",
    "robustness",
    "solve",
    "stability",
    "weighting",
]
