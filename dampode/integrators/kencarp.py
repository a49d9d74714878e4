"""The implicit part of ARK4(3)6L[2]SA: six stages, the first explicit, one diagonal coefficient γ = 1/4."""

from typing import NamedTuple

import torch
from torch import Tensor

GAMMA = 0.25
NODES = (0.0, 0.5, 83 / 250, 31 / 50, 17 / 20, 1.0)
ROWS: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 4,),
    (8611 / 62500, -1743 / 31250),
    (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
    (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
    (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211),
)
WEIGHTS = (*ROWS[-1], GAMMA)
EMBEDDED = (
    4586570599 / 29645900160,
    0.0,
    178811875 / 945068544,
    814220225 / 1159782912,
    -3700637 / 11593932,
    61727 / 225920,
)


class Equation(NamedTuple):
    """A stage's equation U = a + g N(U, t), with (1 + hγλ) U = base + hγ N(U, t) divided by its left factor."""

    base: Tensor
    """x + h Σ_j a_ij F_j over the stages before, (N, *S)."""
    a: Tensor
    g: Tensor


def equation(x: Tensor, slopes: list[Tensor], lam: Tensor, h: Tensor) -> Equation:
    """The equation of the stage after ``slopes`` = h F_1, h F_2, ...; h is signed and in x's dtype."""
    base = x
    for weight, slope in zip(ROWS[len(slopes)], slopes, strict=True):
        base = torch.add(base, slope, alpha=weight)
    damped = 1 / (1 + GAMMA * h * lam)
    return Equation(base, damped * base, GAMMA * h * damped)


def stage_slope(stage: Tensor, base: Tensor) -> Tensor:
    """The slope h F(U) from the stage's own equation: not from F, which would amplify the error of U by hλ."""
    return (stage - base) / GAMMA


def error(slopes: list[Tensor]) -> Tensor:
    """The difference to the embedded method of order 3, (N, *S)."""
    total = torch.zeros_like(slopes[0])
    for weight, embedded, slope in zip(WEIGHTS, EMBEDDED, slopes, strict=True):
        total = torch.add(total, slope, alpha=weight - embedded)
    return total


def predict(known: list[tuple[Tensor, Tensor]], tau: Tensor) -> Tensor:
    """The polynomial through ``known`` pairs of a time (N, 1, ..., 1) and a state (N, *S), at the time ``tau``."""
    guess = torch.zeros_like(known[0][1])
    for j, (node, state) in enumerate(known):
        weight = torch.ones_like(tau)
        for k, (other, _) in enumerate(known):
            if k != j:
                weight = weight * (tau - other) / (node - other)
        guess = torch.addcmul(guess, weight.to(state.dtype), state)
    return guess


def hermite(theta: Tensor, x: Tensor, end: Tensor, slope: Tensor, end_slope: Tensor) -> Tensor:
    """The cubic through a step's ends with their slopes h F, at θ in [0, 1]."""
    rest = 1 - theta
    ends = (1 + 2 * theta) * rest**2 * x + theta**2 * (3 - 2 * theta) * end
    return ends + theta * rest * (rest * slope - theta * end_slope)
