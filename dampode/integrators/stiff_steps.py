"""Steps of explicit methods that stability bounds and not accuracy: how they are measured, counted and reported."""

import warnings
from typing import TypeVar

import torch
from torch import Tensor

from dampode.integrators.tolerance import norm_of_rows

Count = TypeVar("Count", int, Tensor)

__all__ = ["BOUND", "StiffnessWarning", "are_stiff", "relative_change", "warn_of_stiff_steps"]

BOUND = 2.0
"""Stability, not accuracy, bounds a step if h|J| is above this. Explicit methods of order 4 and 5 are stable up to 2.8
and 3.3, where a stiff f keeps them. Steps that accuracy bounds have h|J| < 1 but for a few."""


class StiffnessWarning(UserWarning):
    """The stiffness of ρ f kept the steps of a solve short. No explicit method avoids this."""


def relative_change(rates: Tensor, states: Tensor) -> Tensor:
    """|J| along a direction, from two states at one time: |F_2 − F_1| / |x_2 − x_1| of each sample.

    Args:
        rates: F_2 − F_1, (N, *S).
        states: x_2 − x_1, (N, *S).

    Returns:
        The ratio, (N,), in float64.

    Source: Hairer & Wanner, Solving ODEs II, Sec. IV.2.
    """
    change, distance = (norm_of_rows(v.reshape(len(v), -1)) for v in (rates, states))
    ratio: Tensor = change / distance.clamp_(min=torch.finfo(torch.float64).tiny)
    return ratio


def are_stiff(stiff_steps: Count, steps: Count) -> Count:
    """Whether f is stiff, from the number of steps that stability bounds: at least 50, and a tenth of all steps."""
    return (stiff_steps >= 50) & (10 * stiff_steps >= steps)


def warn_of_stiff_steps(stiff_steps: int, steps: int, who: str, has_gradient: bool, bound: float = BOUND) -> None:
    """Warn that f itself is stiff.

    Args:
        stiff_steps: number of steps that stability bounds.
        steps: number of steps.
        who: whose steps they are.
        has_gradient: whether the states have a graph.
        bound: stability bounds a step if h|J| is above this.
    """
    gradients = (
        " Do not trust gradients through such steps: each may amplify what the next ones damp, which a loss does not "
        "show and a gradient does."
    )
    warnings.warn(
        f"f itself is stiff: stability and not accuracy bounded {stiff_steps} of {steps} steps {who} (measured: "
        f"h|∂N/∂x| > {bound:g}, with N = ρ f); use KenCarp4, whose steps stiffness does not bound."
        + (gradients if has_gradient else ""),
        StiffnessWarning,
        stacklevel=6,
    )
