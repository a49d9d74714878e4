"""Integrators of the damped ODE: frozen dataclasses, called as integrator(func, x, t0, t1) -> x1."""

from dampode.integrators.base import FixedStep, IntegrationError, Integrator
from dampode.integrators.euler import ExponentialEuler, LinearizedEuler
from dampode.integrators.event_solution import EventSolution
from dampode.integrators.exponential.adams import ExponentialAdams
from dampode.integrators.exponential.adaptive import AdaptiveExponential
from dampode.integrators.exponential_rk import ETD2RK, HochbruckOstermann3, HochbruckOstermann4, Krogstad4
from dampode.integrators.implicit.equilibrium_gradient import GradientReport, InexactGradientWarning
from dampode.integrators.implicit.equilibrium_search import Equilibria
from dampode.integrators.implicit.kencarp4 import KenCarp4
from dampode.integrators.implicit.steady_state import SteadyState, UnconvergedWarning
from dampode.integrators.jumps import Jumps
from dampode.integrators.solution import Solution, Status
from dampode.integrators.torchdiffeq_methods import TorchDiffEq

__all__ = [
    "ETD2RK",
    "AdaptiveExponential",
    "Equilibria",
    "EventSolution",
    "ExponentialAdams",
    "ExponentialEuler",
    "FixedStep",
    "GradientReport",
    "HochbruckOstermann3",
    "HochbruckOstermann4",
    "InexactGradientWarning",
    "IntegrationError",
    "Integrator",
    "Jumps",
    "KenCarp4",
    "Krogstad4",
    "LinearizedEuler",
    "Solution",
    "Status",
    "SteadyState",
    "TorchDiffEq",
    "UnconvergedWarning",
]
