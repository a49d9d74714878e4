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


def error(slopes: Tensor) -> Tensor:
    """The difference to the embedded method of order 3, (N, d), from the slopes h F, (N, 6, d)."""
    weights = [weight - embedded for weight, embedded in zip(WEIGHTS, EMBEDDED, strict=True)]
    return (slopes.new_tensor(weights)[:, None] * slopes).sum(1)


def predict(times: Tensor, states: Tensor, tau: Tensor) -> Tensor:
    """The polynomial through ``states``, (N, K, d), at ``times``, (N, K), at the time ``tau``, (N, 1)."""
    same = torch.eye(times.shape[1], dtype=torch.bool, device=times.device)
    gaps = (times[:, :, None] - times[:, None]).masked_fill(same, 1.0)
    weights = ((tau - times)[:, None] / gaps).masked_fill(same, 1.0).prod(2)
    return (weights[:, :, None].to(states.dtype) * states).sum(1)


def hermite(theta: Tensor, x: Tensor, slope: Tensor, end: Tensor, end_slope: Tensor) -> Tensor:
    """The cubic through a step's ends with their slopes h F, at θ in [0, 1]."""
    rest = 1 - theta
    ends = (1 + 2 * theta) * rest**2 * x + theta**2 * (3 - 2 * theta) * end
    return ends + theta * rest * (rest * slope - theta * end_slope)
