"""Integrators of the damped ODE: frozen dataclasses, called as integrator(func, x, t0, t1) -> x1."""

from dampode.integrators.base import FixedStep, IntegrationError, Integrator
from dampode.integrators.euler import ExponentialEuler, LinearizedEuler
from dampode.integrators.torchdiffeq import TorchDiffEq

__all__ = [
    "ExponentialEuler",
    "FixedStep",
    "IntegrationError",
    "Integrator",
    "LinearizedEuler",
    "TorchDiffEq",
]
