"""APGD: projected gradient steps with momentum, whose length is halved where the loss stops growing."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor

from dampode._checks import require_positive_int
from dampode.robustness.attacks.losses import Loss, cross_entropy, dlr, require_classes, targeted_dlr
from dampode.robustness.attacks.runs import AttackOfRuns, Problem, Run
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.norms import Norm, into_ball, length, per_image, require_norm, steepest

__all__ = ["APGD", "TargetedAPGD", "checkpoints", "random_start"]

FIRST_STEP = 2.0
"""The first step in units of ε."""
MOMENTUM = 0.75
"""Share of the new direction in a step; the rest repeats the step before."""
NEEDED_RISES = 0.75
"""The step is halved if the loss rose in at most this share of the steps since the last checkpoint."""
FIRST_PERIOD, SHORTER_BY, SHORTEST_PERIOD = 22, 3, 6
"""Lengths of the periods between checkpoints, in percent of the steps."""
MORE_RESTARTS = 4


@dataclass(frozen=True)
class APGD(AttackOfRuns):
    """Auto-PGD on the cross entropy or on the difference of logits ratio.

    A step goes from x_k to z = P(x_k + η d), d the steepest direction of the gradient, and then to
    x_{k+1} = P(x_k + 0.75 (z − x_k) + 0.25 (x_k − x_{k−1})). It begins with η = 2ε. At the `checkpoints`, η is halved
    and the search resumes from the point of the largest loss, if the loss rose in at most 75 % of the steps since the
    last checkpoint, or if neither η nor the largest loss changed. There is no step length to choose.

    Args:
        loss: "ce" or "dlr", which needs at least 3 classes.
        steps: number of iterations.
        restarts: number of random starts.
        repeats: gradients that are averaged in each step; for randomized models.
        norm: "linf" or "l2".

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Croce & Hein 2020, Algorithm 1.
    """

    loss: Literal["ce", "dlr"] = "ce"
    steps: int = 100
    restarts: int = 1
    repeats: int = 1
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.loss not in ("ce", "dlr"):
            raise ValueError(f'loss must be "ce" or "dlr", got {self.loss!r}')
        for name in ("steps", "restarts", "repeats"):
            require_positive_int(getattr(self, name), name)
        require_norm(self.norm)

    @property
    def traits(self) -> AttackTraits:
        """An iteration along the gradient from a random start."""
        return AttackTraits(gradient_based=True, iterated=True, random_start=True, norm=self.norm)

    def runs(self, classes: int) -> Iterable[Run]:
        """One run per random start."""
        if self.loss == "dlr":
            require_classes(classes, 3, "the difference of logits ratio")
        loss = cross_entropy if self.loss == "ce" else dlr
        return [Run(partial(_from_random_start, loss=loss, steps=self.steps, repeats=self.repeats))] * self.restarts

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def with_more_restarts(self) -> Self:
        """The same attack with 4 more random starts."""
        return replace(self, restarts=self.restarts + MORE_RESTARTS)


@dataclass(frozen=True)
class TargetedAPGD(AttackOfRuns):
    """`APGD` on the targeted difference of logits ratio, toward one class after another, the likeliest first.

    Args:
        targets: number of target classes. A model of K classes has K − 1.
        steps: number of iterations per target.
        norm: "linf" or "l2".

    Raises:
        ValueError, TypeError: a setting is out of range; when called, the model has fewer than 4 classes.

    Source: Croce & Hein 2020.
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
        """An iteration along the gradient from a random start."""
        return AttackTraits(gradient_based=True, iterated=True, random_start=True, norm=self.norm)

    def runs(self, classes: int) -> Iterable[Run]:
        """One run per target."""
        require_classes(classes, 4, "the targeted difference of logits ratio")
        search = partial(_from_random_start, loss=targeted_dlr, steps=self.steps, repeats=1)
        return [Run(search, rank) for rank in range(1, min(self.targets, classes - 1) + 1)]

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)


def checkpoints(steps: int) -> list[int]:
    """The steps after which the step length is judged: w_j = ⌈p_j M⌉ for M steps.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06).

    Source: Croce & Hein 2020, Sec. 3.1.
    """
    share, period, found = FIRST_PERIOD, FIRST_PERIOD, []
    while share <= 100:
        found.append(-(-share * steps // 100))
        period = max(period - SHORTER_BY, SHORTEST_PERIOD)
        share += period
    return sorted(set(found))


def random_start(problem: Problem) -> Tensor:
    """A random point at distance ε of each image, clipped to [0, 1]."""
    x, draws = problem.x, problem.draws
    shape, dtype = x.shape[1:], x.dtype
    offset = 2 * draws.uniform(*shape, dtype=dtype) - 1 if problem.norm == "linf" else draws.normal(*shape, dtype=dtype)
    return (x + problem.eps * offset / per_image(length(offset, problem.norm), x)).clamp(0, 1)


@dataclass
class _Search:
    """The search on the images that still stand. Every tensor has one entry per image."""

    problem: Problem
    place: Tensor
    classes: Tensor
    point: Tensor
    previous: Tensor
    margin: Tensor
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_margin: Tensor
    best_value: Tensor
    best_gradient: Tensor
    step: Tensor
    rises: Tensor
    halved: Tensor
    value_at_checkpoint: Tensor

    @classmethod
    def begin(cls, problem: Problem, classes: Tensor, start: Tensor, at_start: "_Evaluation") -> "_Search":
        """The search at its start. Its first checkpoint takes η as just halved, since there was none before."""
        margin, value, gradient = at_start
        return cls(
            problem=problem,
            place=torch.arange(len(start), device=start.device),
            classes=classes,
            point=start,
            previous=start,
            margin=margin,
            value=value,
            gradient=gradient,
            best=start,
            best_margin=margin,
            best_value=value,
            best_gradient=gradient,
            step=torch.full_like(value, FIRST_STEP * problem.eps),
            rises=torch.zeros_like(value),
            halved=torch.ones_like(value, dtype=torch.bool),
            value_at_checkpoint=value,
        )

    def at(self, index: Tensor) -> "_Search":
        """The search on some of the images."""
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "problem"}
        return replace(self, problem=self.problem.at(index), **tensors)

    def move(self, share: float) -> None:
        """One step. ``share`` is that of the new direction."""
        x, eps, norm = self.problem.x, self.problem.eps, self.problem.norm
        straight = into_ball(self.point + per_image(self.step, x) * steepest(self.gradient, norm), x, eps, norm)
        moved = self.point + share * (straight - self.point) + (1 - share) * (self.point - self.previous)
        self.previous, self.point = self.point, into_ball(moved, x, eps, norm)

    def note(self, at_point: "_Evaluation") -> None:
        """Take in what was evaluated at the new point."""
        margin, value, gradient = at_point
        better = value > self.best_value
        self.best = torch.where(per_image(better, gradient), self.point, self.best)
        self.best_gradient = torch.where(per_image(better, gradient), gradient, self.best_gradient)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_margin = torch.where(better, margin, self.best_margin)
        self.rises = self.rises + (value > self.value)
        self.margin, self.value, self.gradient = margin, value, gradient

    def judge(self, period: int) -> None:
        """Halve the steps of the images whose loss stopped growing, and let them resume from their best points."""
        stalled = (self.value_at_checkpoint >= self.best_value) & ~self.halved
        self.halved = (self.rises <= NEEDED_RISES * period) | stalled
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.point = torch.where(per_image(self.halved, self.point), self.best, self.point)
        self.gradient = torch.where(per_image(self.halved, self.point), self.best_gradient, self.gradient)
        self.rises, self.value_at_checkpoint = torch.zeros_like(self.rises), self.best_value


_Evaluation = tuple[Tensor, Tensor, Tensor]
"""Margin (N,), loss (N,) and the loss's gradient (N, *S) at a point."""


def _evaluate(problem: Problem, points: Tensor, classes: Tensor, loss: Loss, repeats: int) -> _Evaluation:
    """Margin, loss and gradient at points; the gradient is the mean of several, the others are of the last."""
    margin, value, gradient = problem.differentiate(points, classes, loss)
    for _ in range(repeats - 1):
        margin, value, another = problem.differentiate(points, classes, loss)
        gradient = gradient + another
    return margin, value, gradient / repeats


def _from_random_start(problem: Problem, loss: Loss, steps: int, repeats: int) -> tuple[Tensor, Tensor]:
    """A search from a random start."""
    points, found = problem.x.clone(), problem.x.new_full(problem.y.shape, -torch.inf)

    def without_broken(search: _Search) -> _Search:
        broken = search.margin >= 0
        if not bool(broken.any()):
            return search
        points[search.place[broken]], found[search.place[broken]] = search.point[broken], search.margin[broken]
        return search.at(~search.problem.finished(broken))

    start, classes, ends, last = random_start(problem), problem.classes(), checkpoints(steps), 0
    search = _Search.begin(problem, classes, start, _evaluate(problem, start, classes, loss, repeats))
    for k in range(1, steps + 1):
        search = without_broken(search)
        if not len(search.place):
            break
        search.move(1.0 if k == 1 else MOMENTUM)
        search.note(_evaluate(search.problem, search.point, search.classes, loss, repeats))
        search = without_broken(search)
        if k in ends:
            search.judge(k - last)
            last = k
    points[search.place], found[search.place] = search.best, search.best_margin
    return points, found
