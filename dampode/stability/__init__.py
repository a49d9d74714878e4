"""Stability of damped networks: spectra, equilibria, exponents, stability regions, and a report by layer."""

from dampode.stability.certificates import certify, lipschitz, step_lipschitz
from dampode.stability.eigenvalue_shift import DampingCondition, critical_damping, damped_eigenvalues, damping_condition
from dampode.stability.equilibrium import Equilibrium, find_equilibrium, is_asymptotically_stable
from dampode.stability.equilibrium_report import (
    EquilibriumReport,
    EquilibriumRow,
    equilibrium_report,
    jacobian_penalty,
)
from dampode.stability.jacobian_operator import ConvergenceError, JacobianOperator, jacobian
from dampode.stability.layers import ErrorPropagation, LayerReport, LayerRow, error_propagation, layer_report
from dampode.stability.lyapunov import LayerExponents, layer_exponents, lyapunov_exponents
from dampode.stability.regions import StabilityRegion, largest_stable_step, stability_function, stability_region
from dampode.stability.spectrum import (
    MissedEigenvalueWarning,
    eigenvalues,
    log_norm,
    spectral_abscissa,
    spectral_norm,
    spectral_radius,
)

__all__ = [
    "ConvergenceError",
    "DampingCondition",
    "Equilibrium",
    "EquilibriumReport",
    "EquilibriumRow",
    "ErrorPropagation",
    "JacobianOperator",
    "LayerExponents",
    "LayerReport",
    "LayerRow",
    "MissedEigenvalueWarning",
    "StabilityRegion",
    "certify",
    "critical_damping",
    "damped_eigenvalues",
    "damping_condition",
    "eigenvalues",
    "equilibrium_report",
    "error_propagation",
    "find_equilibrium",
    "is_asymptotically_stable",
    "jacobian",
    "jacobian_penalty",
    "largest_stable_step",
    "layer_exponents",
    "layer_report",
    "lipschitz",
    "log_norm",
    "lyapunov_exponents",
    "spectral_abscissa",
    "spectral_norm",
    "spectral_radius",
    "stability_function",
    "stability_region",
    "step_lipschitz",
]
