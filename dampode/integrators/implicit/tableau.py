"""The implicit part of ARK4(3)6L[2]SA: six stages, the first explicit, one diagonal coefficient γ = 1/4."""

from functools import cache

import torch
from torch import Tensor

__all__ = [
    "EMBEDDED",
    "GAMMA",
    "NODES",
    "ROWS",
    "WEIGHTS",
    "combinations",
    "explicit_part",
    "hermite",
    "predictors",
    "stage_coefficients",
    "stage_slope",
]

GAMMA = 0.25
"""The diagonal coefficient γ."""

NODES = (0.0, 0.5, 83 / 250, 31 / 50, 17 / 20, 1.0)
"""The nodes c_i of the six stages."""

ROWS: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 4,),
    (8611 / 62500, -1743 / 31250),
    (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
    (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
    (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211),
)
"""The coefficients a_ij with j < i."""

WEIGHTS = (*ROWS[-1], GAMMA)
"""The weights b_j. The method is stiffly accurate: the state at the end of a step is its last stage."""

EMBEDDED = (
    4586570599 / 29645900160,
    0.0,
    178811875 / 945068544,
    814220225 / 1159782912,
    -3700637 / 11593932,
    61727 / 225920,
)
"""The weights of the embedded method of order 3."""


def explicit_part(x: Tensor, slopes: list[Tensor]) -> Tensor:
    """The explicit part x + h Σ_j a_ij F_j of the next stage i.

    Args:
        x: state at the start of the step, (N, *S).
        slopes: h F at the stages so far, each (N, *S).
    """
    for weight, slope in zip(ROWS[len(slopes)], slopes, strict=True):
        x = torch.add(x, slope, alpha=weight)
    return x


def stage_coefficients(lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The factors w and g of the stage equation U = w base + g N(U, t), which is (1 + hγλ) U = base + hγ N(U, t).

    Args:
        lam: λ.
        h: the signed step, in x's dtype.
    """
    weight = 1 / (1 + GAMMA * h * lam)
    return weight, GAMMA * h * weight


def stage_slope(stage: Tensor, explicit: Tensor) -> Tensor:
    """The slope h F(U) of a stage, from its equation. A call of F would amplify the error of U by hλ."""
    return (stage - explicit) / GAMMA


def combinations() -> tuple[Tensor, Tensor]:
    """The coefficients of a step's results as sums of nine rows.

    The rows are: x and h F at the start of the last step, x, the stages 1 to 5, h F(x). Each h is that of its step.

    Returns:
        The explicit parts of the stages 1 to 5, (5, 9). The error (the difference to the embedded method of order 3)
        and h F at the end of the step, (2, 9). All float64.
    """
    unit = torch.eye(9, dtype=torch.float64)
    explicit, slopes = [], [unit[8]]
    for stage in unit[3:8]:
        explicit.append(explicit_part(unit[2], slopes))
        slopes.append(stage_slope(stage, explicit[-1]))
    difference = torch.tensor(WEIGHTS, dtype=torch.float64) - torch.tensor(EMBEDDED, dtype=torch.float64)
    return torch.stack(explicit), torch.stack((difference @ torch.stack(slopes), slopes[-1]))


def _stage_cubes() -> tuple[float, ...]:
    """What the stages of a step become where x' = 3 t² and x = 0 at the start: 3 Σ_j a_ij c_j² for t³."""
    rows = ((*row, GAMMA) for row in ROWS[1:])
    return (0.0, *(3 * sum(a * c**2 for a, c in zip(row, NODES, strict=False)) for row in rows))


def predictors(ratio: Tensor) -> Tensor:
    """The coefficients, (N, 5, 9), that predict each stage from the rows of `combinations` before it.

    Polynomials t^k of degree k <= 2 are predicted without an error. Stages are of order 2: for a cubic, a stage has an
    error, and a stiff component of x has it not. The predictions of the stages 1, 4 and 5 are right for a stiff cubic;
    those of the stages 2 to 5 have the errors that the stages themselves have for a cubic that is not stiff.

    Args:
        ratio: length of the last step divided by the length of this one, (N, 1) float64.
    """
    weights = ratio.new_zeros(len(ratio), 5, 9)
    weights[:, 2:] = _own_predictors().to(ratio.device)
    c1, c2, (_, q1, q2, *_) = NODES[1], NODES[2], _stage_cubes()
    # stage 1: the cubic of Hermite through the last step
    s = c1 / ratio
    theta = 1 + s
    before = (1 + 2 * theta) * s**2
    weights[:, 0, (0, 1, 2, 8)] = torch.cat(
        (before, theta * s**2, 1 - before, theta**2 * s * ratio), 1
    )
    # stage 2: x before, x, h F and stage 1
    det = ratio**2 * (q1 + ratio * c1**2)
    before = (c2**2 * q1 - c1**2 * q2) / det
    first = (q2 + ratio * c2**2) / (q1 + ratio * c1**2)
    weights[:, 1, (0, 2, 3, 8)] = torch.cat((before, 1 - before - first, first, c2 - first * c1 + before * ratio), 1)
    return weights


@cache
def _own_predictors() -> Tensor:
    """The rows of `predictors` for the stages 3 to 5, from the rows of the same step, (3, 9)."""
    c, cubes = torch.tensor(NODES, dtype=torch.float64), torch.tensor(_stage_cubes(), dtype=torch.float64)
    powers = torch.stack((c**0, c, c**2, cubes, c**3))  # (5, 6)
    slope = c.new_tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    weights = c.new_zeros(3, 9)
    for row, stage, conditions in zip(weights, (3, 4, 5), (4, 5, 5), strict=True):
        known = torch.cat((powers[:conditions, :stage], slope[:conditions, None]), 1)
        found = torch.linalg.pinv(known) @ powers[:conditions, stage]
        row[2 : 2 + stage], row[8] = found[:-1], found[-1]
    return weights


def hermite(theta: Tensor, x: Tensor, slope: Tensor, end: Tensor, end_slope: Tensor) -> Tensor:
    """The cubic Hermite interpolant of a step, at θ in [0, 1].

    Args:
        theta: the fraction of the step.
        x: state at the start.
        slope: h F there.
        end: state at the end.
        end_slope: h F there.
    """
    rest = 1 - theta
    ends = (1 + 2 * theta) * rest**2 * x + theta**2 * (3 - 2 * theta) * end
    return ends + theta * rest * (rest * slope - theta * end_slope)
