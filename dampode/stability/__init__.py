"""Stability of damped networks: spectra, equilibria, exponents, stability regions, and a report by layer."""

from dampode.stability.damped import DampingCondition, critical_damping, damped_eigenvalues, damping_condition
from dampode.stability.linear import ConvergenceError, JacobianOperator, jacobian
from dampode.stability.spectrum import (
    MissedEigenvalueWarning,
    eigenvalues,
    log_norm,
    spectral_abscissa,
    spectral_norm,
    spectral_radius,
)
