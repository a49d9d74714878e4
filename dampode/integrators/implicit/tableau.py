"""The implicit part of ARK4(3)6L[2]SA: six stages, the first explicit, one diagonal coefficient γ = 1/4."""

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

_NEAR = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (3, 5, 6))
"""For each stage, the three rows of `combinations` that predict it."""

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

    The rows are: two stages of the last step, x, the stages 1 to 5, h F(x).

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


def predictors(times: Tensor) -> Tensor:
    """The coefficients, (N, 5, 9), that predict each stage by a parabola through three rows of `combinations`.

    Args:
        times: τ of the first eight rows, (N, 8).
    """
    near = torch.tensor(_NEAR, device=times.device)
    same = torch.eye(3, dtype=torch.bool, device=times.device)
    known, wanted = times[:, near], times[:, 3:, None]
    gaps = (known[:, :, :, None] - known[:, :, None]).masked_fill(same, 1.0)
    weights = ((wanted - known)[:, :, None] / gaps).masked_fill(same, 1.0).prod(3)
    return weights.new_zeros(len(times), 5, 9).scatter_(2, near.expand_as(known), weights)


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
