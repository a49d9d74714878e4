"""FAB: steps to the linearized decision boundary that stay near the image, in search of the nearest border."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from dampode._checks import require_positive_int
from dampode.robustness.attacks.apgd import random_start
from dampode.robustness.attacks.losses import difference
from dampode.robustness.attacks.runs import AttackOfRuns, Problem, Run
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.norms import Norm, dual_length, length, per_image, require_norm

__all__ = ["FAB", "TargetedFAB", "to_hyperplane"]

OVERSHOOT = 1.05
"""How far a step goes, in units of the way to the linearized boundary."""
BACKWARD = 0.9
"""A misclassified point is moved back to this share of its distance."""
LARGEST_BIAS = 0.1
"""Largest weight of the point that is projected from the image itself."""
SHORTEST = 1e-8
MORE_RESTARTS = 4


@dataclass(frozen=True)
class FAB(AttackOfRuns):
    """The fast adaptive boundary attack: the nearest linearized boundary of all classes.

    From a point x_k, the boundary toward a class is linearized to a hyperplane. d1 leads from x_k to it, d2 from the
    image x, both the shortest in [0, 1]. The next point is (1 − α)(x_k + 1.05 d1) + α (x + 1.05 d2) with
    α = min(‖d1‖ / (‖d1‖ + ‖d2‖), 0.1). A misclassified point is moved back to 90 % of its distance. An image is broken
    if a misclassified point lies within ε.

    Args:
        steps: number of iterations.
        restarts: number of starts. The first start is the image, and the others are random at distance ε / 2.
        norm: "linf" or "l2".

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Croce & Hein 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack.
    """

    steps: int = 100
    restarts: int = 1
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.steps, "steps")
        require_positive_int(self.restarts, "restarts")
        require_norm(self.norm)

    @property
    def traits(self) -> AttackTraits:
        """An iteration along the gradient."""
        return AttackTraits(gradient_based=True, iterated=True, random_start=self.restarts > 1, norm=self.norm)

    def runs(self, classes: int) -> Iterable[Run]:
        """One run per start."""
        ranks = range(1, classes)
        first, other = (partial(_to_boundary, ranks=ranks, steps=self.steps, start=start) for start in (False, True))
        return [Run(first), *[Run(other)] * (self.restarts - 1)]

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def with_more_restarts(self) -> Self:
        """The same attack with 4 more starts."""
        return replace(self, restarts=self.restarts + MORE_RESTARTS)


@dataclass(frozen=True)
class TargetedFAB(AttackOfRuns):
    """`FAB` toward one class after another, the likeliest first. A step costs one gradient, whatever the classes.

    Args:
        targets: number of target classes. A model of K classes has K − 1.
        steps: number of iterations per target.
        norm: "linf" or "l2".

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Croce & Hein 2020, Reliable evaluation of adversarial robustness.
    """

    targets: int = 9
    steps: int = 100
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.targets, "targets")
        require_positive_int(self.steps, "steps")
        require_norm(self.norm)

    @property
    def traits(self) -> AttackTraits:
        """An iteration along the gradient."""
        return AttackTraits(gradient_based=True, iterated=True, norm=self.norm)

    def runs(self, classes: int) -> Iterable[Run]:
        """One run per target."""
        search = partial(_to_boundary, ranks=None, steps=self.steps, start=False)
        return [Run(search, rank) for rank in range(1, min(self.targets, classes - 1) + 1)]

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)


def to_hyperplane(x: Tensor, w: Tensor, change: Tensor, norm: Norm) -> Tensor:
    """The shortest δ with w·δ = c and x + δ in [0, 1]; if there is none, the δ of the nearest w·δ.

    The solution is δ_i = s min(τ v_i, r_i), where v = 1 in L∞ and v = |w| in L2, s = sign(w_i c), and r_i is the room
    from x_i to the border in this direction. Σ |w_i| min(τ v_i, r_i) = |c| is piecewise linear in τ; it is solved
    between the two neighboring values r_i / v_i.

    Args:
        x: pixels in [0, 1], (N, *S).
        w: normal vectors, (N, *S).
        change: c, (N,).
        norm: the norm in which δ is the shortest.

    Returns:
        δ, (N, *S).
    """
    flat, normal = x.flatten(1), w.flatten(1)
    direction = normal.sign() * change.sign()[:, None]
    room = torch.where(direction > 0, 1 - flat, flat)
    weight = normal.abs()
    speed = torch.ones_like(weight) if norm == "linf" else weight
    border = torch.where(weight > 0, room / speed.clamp(min=torch.finfo(x.dtype).tiny), 0)
    border, order = border.sort(dim=1)
    filled = (weight * room).gather(1, order)
    rate = (weight * speed).gather(1, order)
    before = filled.cumsum(1) - filled  # of the elements that reached their border earlier
    still = rate.flip(1).cumsum(1).flip(1)  # rate of the others
    wanted = change.abs()[:, None]
    reached = (before + border * still >= wanted).to(torch.int8)
    first = reached.argmax(1, keepdim=True)
    tau = (wanted - before.gather(1, first)) / still.gather(1, first).clamp(min=torch.finfo(x.dtype).tiny)
    tau = torch.where(reached.any(1, keepdim=True), tau, torch.inf)
    delta = torch.where(weight > 0, direction * torch.minimum(tau * speed, room), 0)
    return delta.view_as(x)


def _to_boundary(problem: Problem, ranks: Iterable[int] | None, steps: int, start: bool) -> tuple[Tensor, Tensor]:
    """A search from a random start or from the image, toward the nearest boundary of the classes of these ranks.

    None stands for the target of the problem.
    """
    points, found = problem.x.clone(), problem.x.new_full(problem.y.shape, -torch.inf)
    left = torch.arange(len(points), device=points.device)
    point = problem.x + (random_start(problem) - problem.x) / 2 if start else problem.x
    ranked = [problem.rank] if ranks is None else [torch.full_like(problem.rank, rank) for rank in ranks]
    classes = [replace(problem, rank=rank).classes() for rank in ranked]
    for _ in range(steps):
        if not len(left):
            break
        x, norm = problem.x, problem.norm
        value, w = _nearest(problem, point, classes)
        first = to_hyperplane(point, w, -value, norm)
        second = to_hyperplane(x, w, (w * (point - x)).flatten(1).sum(1) - value, norm)
        near, far = (length(delta, norm).clamp(min=SHORTEST) for delta in (first, second))
        bias = per_image((near / (near + far)).clamp(max=LARGEST_BIAS), x)
        point = ((point + OVERSHOOT * first) * (1 - bias) + (x + OVERSHOOT * second) * bias).clamp(0, 1)
        margin = problem.margins(point)
        wrong = margin >= 0
        broken = wrong & (length(point - x, norm) <= problem.eps)
        points[left[broken]], found[left[broken]] = point[broken], margin[broken]
        point = torch.where(per_image(wrong, x), x + BACKWARD * (point - x), point)
        if bool(broken.any()):
            going = ~problem.finished(broken)
            left, point, problem = left[going], point[going], problem.at(going)
            classes = [part[going] for part in classes]
    return points, found


def _nearest(problem: Problem, point: Tensor, classes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """z_t − z_y (N,) and its gradient (N, *S) toward the class t whose linearized boundary is nearest to the point."""
    value, w, distance = point.new_zeros(len(point)), point, point.new_full((len(point),), torch.inf)
    for pair in classes:
        _, other, gradient = problem.differentiate(point, pair, difference)
        away = other.abs() / dual_length(gradient, problem.norm).clamp(min=torch.finfo(point.dtype).tiny)
        nearer = away < distance
        value, distance = torch.where(nearer, other, value), torch.where(nearer, away, distance)
        w = torch.where(per_image(nearer, w), gradient, w)
    return value, w
