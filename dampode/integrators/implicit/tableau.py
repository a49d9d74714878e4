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


def predictors(ratio: Tensor, cubic: Tensor) -> Tensor:
    """The coefficients, (N, 5, 9), that predict each stage from the rows of `combinations` before it.

    Polynomials of degree 2 are predicted without an error. The stages are of order 2, so each has an error where x is a
    cubic. The predictions of the stages 2 to 5 have the same errors as the stages themselves.

    Args:
        ratio: length of the last step divided by the length of this one, (N, 1) float64.
        cubic: the samples whose stage 1 is predicted by the cubic of Hermite through the last step, (N, 1). The others
            use the parabola through both states and the last slope. It is less accurate, but it does not depend on the
            slope before, in which errors of stiff components are large.
    """
    weights = ratio.new_zeros(len(ratio), 5, 9)
    weights[:, 2:] = _own_predictors().to(ratio.device)
    c1, c2, (_, cube1, cube2, *_) = NODES[1], NODES[2], _stage_cubes()
    past = c1 / ratio  # how far stage 1 lies behind the last step, in its lengths
    theta = 1 + past
    before = past**2 * torch.where(cubic, 1 + 2 * theta, 1.0)
    slope_before, slope = torch.where(cubic, theta * past**2, 0.0), c1 * theta * torch.where(cubic, theta, 1.0)
    weights[:, 0, (0, 1, 2, 8)] = torch.cat((before, slope_before, 1 - before, slope), 1)
    # stage 2 from x before, x, h F and stage 1
    det = cube1 + ratio * c1**2
    before = (c2**2 * cube1 - c1**2 * cube2) / (ratio**2 * det)
    first = (cube2 + ratio * c2**2) / det
    weights[:, 1, (0, 2, 3, 8)] = torch.cat((before, 1 - before - first, first, c2 - first * c1 + before * ratio), 1)
    return weights


def _stage_cubes() -> tuple[float, ...]:
    """The stages of a step of length 1 from x = 0 with x' = 3 t²: 3 Σ_j a_ij c_j², where x itself is c_i³."""
    rows = ((*row, GAMMA) for row in ROWS[1:])
    return (0.0, *(3 * sum(a * c**2 for a, c in zip(row, NODES, strict=False)) for row in rows))


@cache
def _own_predictors() -> Tensor:
    """The part of `predictors` for the stages 3 to 5, (3, 9): the least coefficients, from the step's own rows."""
    c = torch.tensor(NODES, dtype=torch.float64)
    known = torch.stack((c**0, c, c**2, c.new_tensor(_stage_cubes())))
    slope = c.new_tensor([[0.0], [1.0], [0.0], [0.0]])
    weights = c.new_zeros(3, 9)
    for row, stage in zip(weights, (3, 4, 5), strict=True):
        found = torch.linalg.pinv(torch.cat((known[:, :stage], slope), 1)) @ known[:, stage]
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
