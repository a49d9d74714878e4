"""Attacks made of runs, such as restarts or target classes: each run works on the images that still stand."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dampode._checks import require_positive_int
from dampode.robustness.attacks.losses import Loss
from dampode.robustness.attacks.traits import Attack
from dampode.robustness.classifier import attacked_in_eval_mode, margins, predict, predict_and_differentiate
from dampode.robustness.draws import Generator, ImageDraws
from dampode.robustness.norms import Norm, require_radius

__all__ = ["AttackOfRuns", "Problem", "Run"]


@dataclass(frozen=True)
class Problem:
    """Images to perturb, and what is known of them.

    Args:
        model: classifier of pixels, in eval mode.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        logits: the model's logits of x, (N, K).
        eps: radius ε.
        norm: the norm of the radius.
        draws: the images' random numbers.
        batch_size: images per forward pass.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    eps: float
    norm: Norm
    draws: ImageDraws
    batch_size: int

    def at(self, index: Tensor) -> "Problem":
        """The same problem for some of the images."""
        return replace(self, x=self.x[index], y=self.y[index], logits=self.logits[index], draws=self.draws.at(index))

    def classes(self, rank: int) -> Tensor:
        """Labels and targets, (N, 2). The target has the rank-th largest logit of x without the label's; 1 is first."""
        others = self.logits.scatter(1, self.y[:, None], -torch.inf)
        return torch.stack([self.y, others.sort(dim=1, descending=True, stable=True).indices[:, rank - 1]], 1)

    def margins(self, points: Tensor) -> Tensor:
        """The margin of each point, (N,): at least 0 if it is misclassified."""
        return margins(predict(self.model, points, self.batch_size), self.y)

    def differentiate(self, points: Tensor, classes: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The margin (N,), the loss (N,) and the loss's gradient (N, *S) at points."""
        logits, gradient = predict_and_differentiate(self.model, points, classes, self.batch_size, loss)
        return margins(logits, self.y), loss(logits, classes), gradient


Run = Callable[[Problem], tuple[Tensor, Tensor]]
"""Perturbs the images of a problem: the points in the ball, and their margins (N,)."""


class AttackOfRuns(Attack):
    """An attack in several runs. An image that a run broke takes no part in later runs.

    Its random numbers belong to each image alone. Its results therefore depend neither on the batch size nor on the
    other images, up to rounding in the network.
    """

    norm: Norm

    @abstractmethod
    def runs(self, classes: int) -> Iterable[Run]:
        """The runs in their order, for a model of so many classes.

        Raises:
            ValueError: the model has too few classes.
        """

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        eps: float,
        generator: Generator = None,
        batch_size: int = 500,
    ) -> Tensor:
        """Perturb pixels, as `Attack` says. An image that stands gets the point of the largest margin."""
        with attacked_in_eval_mode(model, x, y) as x:
            return self.perturb(model, x, y, eps, generator, batch_size)

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """The attack on a model in eval mode and on pixels that were checked."""
        require_positive_int(batch_size, "batch_size")
        require_radius(eps, self.norm, x)
        logits = predict(model, x, batch_size)
        runs = self.runs(logits.shape[1])
        best, best_margin = x.clone(), margins(logits, y)
        if eps == 0:
            return best
        draws = ImageDraws.of(len(x), generator, x.device)
        problem = Problem(model, x, y, logits, eps, self.norm, draws, batch_size)
        for number, run in enumerate(runs):
            standing = (best_margin < 0).nonzero().squeeze(1)
            if not len(standing):
                break
            part = problem.at(standing)
            points, margin = run(replace(part, draws=part.draws.stream(number)))
            better = margin > best_margin[standing]
            best[standing[better]], best_margin[standing[better]] = points[better], margin[better]
        return best
