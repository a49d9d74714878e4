"""The implicit part of ARK4(3)6L[2]SA: six stages, the first explicit, one diagonal coefficient γ = 1/4."""

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
_NEAR = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (3, 5, 6))  # rows of `combinations` that predict a stage
EMBEDDED = (
    4586570599 / 29645900160,
    0.0,
    178811875 / 945068544,
    814220225 / 1159782912,
    -3700637 / 11593932,
    61727 / 225920,
)


def base(x: Tensor, slopes: list[Tensor]) -> Tensor:
    """The explicit part x + h Σ_j a_ij F_j of the stage i after ``slopes`` = h F_1, h F_2, ...; (N, *S)."""
    for weight, slope in zip(ROWS[len(slopes)], slopes, strict=True):
        x = torch.add(x, slope, alpha=weight)
    return x


def damped(lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of U = w base + g N(U, t), which is (1 + hγλ) U = base + hγ N(U, t); h is signed, in x's dtype."""
    weight = 1 / (1 + GAMMA * h * lam)
    return weight, GAMMA * h * weight


def stage_slope(stage: Tensor, base: Tensor) -> Tensor:
    """The slope h F(U) from the stage's own equation: not from F, which would amplify the error of U by hλ."""
    return (stage - base) / GAMMA


def combinations() -> tuple[Tensor, Tensor]:
    """Everything in a step is a sum over nine rows: two stages of the last step, x, the stages 1 to 5, h F(x).

    Returns:
        The sums, (5, 9), that are the explicit parts of the stages 1 to 5; those that are the error, as the difference
        to the embedded method of order 3, and h F at the end, (2, 9). Float64.
    """
    unit = torch.eye(9, dtype=torch.float64)
    bases, slopes = [], [unit[8]]
    for stage in unit[3:8]:
        bases.append(base(unit[2], slopes))
        slopes.append(stage_slope(stage, bases[-1]))
    difference = torch.tensor(WEIGHTS, dtype=torch.float64) - torch.tensor(EMBEDDED, dtype=torch.float64)
    return torch.stack(bases), torch.stack((difference @ torch.stack(slopes), slopes[-1]))


def predictors(times: Tensor) -> Tensor:
    """The sums, (N, 5, 9), that predict the stages by parabolas through the _NEAR rows; ``times`` of rows, (N, 8)."""
    near = torch.tensor(_NEAR, device=times.device)
    same = torch.eye(3, dtype=torch.bool, device=times.device)
    known, wanted = times[:, near], times[:, 3:, None]
    gaps = (known[:, :, :, None] - known[:, :, None]).masked_fill(same, 1.0)
    weights = ((wanted - known)[:, :, None] / gaps).masked_fill(same, 1.0).prod(3)
    return weights.new_zeros(len(times), 5, 9).scatter_(2, near.expand_as(known), weights)


def hermite(theta: Tensor, x: Tensor, slope: Tensor, end: Tensor, end_slope: Tensor) -> Tensor:
    """The cubic through a step's ends with their slopes h F, at θ in [0, 1]."""
    rest = 1 - theta
    ends = (1 + 2 * theta) * rest**2 * x + theta**2 * (3 - 2 * theta) * end
    return ends + theta * rest * (rest * slope - theta * end_slope)
