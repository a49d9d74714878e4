"""Square: a random search over squares in L∞, and over pairs of windows in L2, by forward passes only."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from dampode._checks import require_positive_int
from dampode.robustness.attacks.runs import AttackOfRuns, Problem, Run
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.classifier import attacked_in_eval_mode
from dampode.robustness.draws import Generator, ImageDraws
from dampode.robustness.norms import Norm, per_image, require_norm

__all__ = ["Square", "bump", "side", "square"]

FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The share is halved after each of these queries, of 10,000."""
SCHEDULED = 10_000
TILES = 5
"""The first point of L2 has this many tiles along the height of the image."""
TINY = 1e-12


@dataclass(frozen=True)
class Square(AttackOfRuns):
    """Random search that uses logits only, so hidden gradients do not stop it.

    In L∞ a trial sets a square of random position to x ± ε, with a random sign per channel. In L2 a trial moves the
    change of one window into another. The trial is kept if the margin grows. The search starts from vertical stripes
    of x ± ε, or in L2 from tiles, and the squares shrink as queries are used up. A broken image is not changed any
    further.

    Args:
        queries: forward passes per image.
        schedule: number of queries in which the squares reach their smallest size; None for ``queries``. The paper's
            sizes are those of 10,000 queries, which AutoAttack stops after 5,000.
        norm: "linf" or "l2".

    Raises:
        ValueError, TypeError: a setting is out of range; when called, x is not (N, C, H, W).

    Source: Andriushchenko et al. 2020, Algorithms 1 to 3.
    """

    queries: int = 5000
    schedule: int | None = None
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.queries, "queries")
        if self.schedule is not None:
            require_positive_int(self.schedule, "schedule")
        require_norm(self.norm)

    @property
    def traits(self) -> AttackTraits:
        """A search from a random start."""
        return AttackTraits(gradient_based=False, iterated=True, random_start=True, norm=self.norm)

    def runs(self, classes: int) -> Iterable[Run]:
        """One search."""
        return [Run(partial(_search, queries=self.queries, schedule=self.schedule or self.queries))]

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """The search on a model in eval mode and on pixels that were checked."""
        if x.ndim != 4:
            raise ValueError(f"square needs images (N, C, H, W), got shape {tuple(x.shape)}")
        return super().perturb(model, x, y, eps, generator, batch_size)

    def with_twice_the_steps(self) -> Self:
        """The same search with twice the queries."""
        return replace(self, queries=2 * self.queries)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 5000,
    schedule: int | None = None,
    norm: Norm = "linf",
    generator: Generator = None,
    batch_size: int = 500,
) -> Tensor:
    """`Square` as a function.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units: in [0, 1], or in L2 at most the distance of two images.
        queries: forward passes per image.
        schedule: number of queries in which the squares reach their smallest size, as in `Square`.
        norm: "linf" or "l2".
        generator: source of the draws, on x's device. The draws of an image do not depend on other images.
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], ‖x' − x‖ <= ε.

    Raises:
        ValueError: a setting is out of range, x is not (N, C, H, W), or as in `fgsm`.
        TypeError: pixels are not float32 or float64, or labels not int64.

    Source: Andriushchenko et al. 2020.
    """
    attack = Square(queries, schedule, norm)
    with attacked_in_eval_mode(model, x, y) as x:
        return attack.perturb(model, x, y, eps, generator, batch_size)


def side(query: int, schedule: int, height: int, width: int) -> int:
    """The side of the squares at a query: √(p H W), at least 1, where p falls from 0.8 by halves."""
    share: float = FIRST_SHARE / 2 ** sum(query * SCHEDULED > h * schedule for h in HALVINGS)
    return min(max(1, round(math.sqrt(share * height * width))), height, width)


def bump(size: int) -> Tensor:
    """The change of a window of L2, (size, size), of length 1: a positive hill in the upper half, its negative below.

    A hill of h1 x h2 is Σ_{k >= d} 1/(k + 1)² at distance d = max(|i − h1/2|, |j − h2/2|) from its middle.

    Source: Andriushchenko et al. 2020, Sec. 3.3.
    """
    upper = size // 2
    whole: Tensor = torch.cat([_hill(upper, size), -_hill(size - upper, size)])
    return whole.div(whole.norm())


def _hill(height: int, width: int) -> Tensor:
    """A hill of `bump`, (height, width), of length 1."""
    rings = max(height, width) // 2 + 1
    tail = (1 / torch.arange(1, rings + 1, dtype=torch.float64) ** 2).flip(0).cumsum(0).flip(0)
    rows, columns = ((torch.arange(n) - n // 2).abs() for n in (height, width))
    hill = tail[torch.maximum(rows[:, None], columns[None, :])]
    return hill.div(hill.norm().clamp(min=TINY))


def _search(problem: Problem, queries: int, schedule: int) -> tuple[Tensor, Tensor]:
    """A search: the points, and their margins."""
    first, trial = (_stripes, _with_square) if problem.norm == "linf" else (_tiles, _with_windows)
    points = first(problem)
    found = problem.margins(points)
    height, width = points.shape[2:]
    for query in range(1, queries):
        left = (found < 0).nonzero().squeeze(1)
        if not len(left):
            break
        part = problem.at(left)
        part = replace(part, draws=part.draws.stream(query))
        moved = trial(part, points[left], side(query, schedule, height, width))
        margin = part.margins(moved)
        better = margin > found[left]
        points[left[better]], found[left[better]] = moved[better], margin[better]
    return points, found


def _stripes(problem: Problem) -> Tensor:
    """Vertical stripes of x ± ε."""
    x = problem.x
    signs = problem.draws.signs(x.shape[1], 1, x.shape[3], dtype=x.dtype)
    return (x + problem.eps * signs).clamp(0, 1)


def _with_square(problem: Problem, points: Tensor, size: int) -> Tensor:
    """Points whose square of random position is x ± ε, one sign per channel."""
    x, draws = problem.x, problem.draws
    inside = [_span(draws.stream(k), size, length) for k, length in enumerate(x.shape[2:])]
    signs = draws.stream(2).signs(x.shape[1], 1, 1, dtype=x.dtype)
    mask = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]  # (N, 1, H, W)
    return torch.where(mask, (x + problem.eps * signs).clamp(0, 1), points)


def _span(draws: ImageDraws, size: int, length: int) -> Tensor:
    """Where a span of a size lies along an axis of a length, (N, length)."""
    first = draws.integers(length - size + 1, 1)
    index = torch.arange(length, device=first.device)
    return (index >= first) & (index < first + size)


def _tiles(problem: Problem) -> Tensor:
    """X moved by ε along tiles of bumps, with a random sign per tile and channel."""
    x, draws = problem.x, problem.draws
    n, channels, height, width = x.shape
    size = max(min(height, width) // TILES, 1)
    rows, columns = height // size, width // size
    upright = draws.stream(0).uniform(1, rows, 1, columns, 1) < 0.5
    signs = draws.stream(1).signs(channels, rows, 1, columns, 1, dtype=x.dtype)
    tile = bump(size).to(x)
    tiles = signs * torch.where(upright, tile[:, None, :], tile.T[:, None, :])  # (N, C, rows, size, columns, size)
    delta = torch.zeros_like(x)
    top, left = (height - rows * size) // 2, (width - columns * size) // 2
    middle = delta[:, :, top : top + rows * size, left : left + columns * size]
    middle.copy_(tiles.reshape(n, channels, rows * size, columns * size))
    return _at_distance(problem, delta)


def _with_windows(problem: Problem, points: Tensor, size: int) -> Tensor:
    """Points in which the change of one window moved into another window, in which a bump is added."""
    x, draws = problem.x, problem.draws
    channels, height, width = x.shape[1:]
    size = min(max(size, 3) | 1, height, width)  # odd where the image allows it
    delta = (points - x).movedim(1, -1).contiguous()  # (N, H, W, C)
    receiver, giver = (_window(draws.stream(k), size, height, width) for k in (0, 1))
    both = torch.zeros_like(delta, dtype=torch.bool)
    both[receiver] = both[giver] = True
    unused = (problem.eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0) / channels
    budget = ((delta * both).square().sum((1, 2), keepdim=True) + unused).sqrt()
    upright = per_image(draws.stream(2).uniform() < 0.5, x)
    shape = bump(size).to(x)[:, :, None]  # (size, size, 1)
    added = torch.where(upright, shape, shape.transpose(0, 1)) * draws.stream(3).signs(1, 1, channels, dtype=x.dtype)
    received = delta[receiver]
    new = added + received / (_size(received) + TINY)
    delta[giver] = 0
    delta[receiver] = new / (_size(new) + TINY) * budget
    return _at_distance(problem, delta.movedim(-1, 1))


def _window(draws: ImageDraws, size: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of a window of random position per image, for tensors (N, H, W, C)."""
    span = torch.arange(size, device=draws.keys.device)
    rows = draws.stream(0).integers(height - size + 1, 1) + span
    columns = draws.stream(1).integers(width - size + 1, 1) + span
    return torch.arange(len(rows), device=span.device)[:, None, None], rows[:, :, None], columns[:, None, :]


def _size(window: Tensor) -> Tensor:
    """The L2 length of each channel, (N, 1, 1, C)."""
    return window.square().sum((1, 2), keepdim=True).sqrt()


def _at_distance(problem: Problem, delta: Tensor) -> Tensor:
    """X + ε δ / ‖δ‖, clipped to [0, 1]."""
    scale = problem.eps / (delta.flatten(1).norm(dim=1) + TINY)
    return (problem.x + per_image(scale, delta) * delta).clamp(0, 1)
