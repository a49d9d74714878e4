"""Attacks made of runs, such as restarts or target classes: each run works on the images that still stand.

Runs of the same search share their passes where few images stand: the search then works on several copies of an image,
one per run.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

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
        rank: the place of the target among the other classes, (N,). 1 is the class of the largest logit.
        image: the number of the image, (N,). Copies of an image have its number, in the order of their runs.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    eps: float
    norm: Norm
    draws: ImageDraws
    batch_size: int
    rank: Tensor
    image: Tensor

    def at(self, index: Tensor) -> "Problem":
        """The same problem for some of the images."""
        tensors = {name: getattr(self, name)[index] for name in ("x", "y", "logits", "rank", "image")}
        return replace(self, **tensors, draws=self.draws.at(index))

    def copies(self, runs: Sequence["Run"], first: int) -> "Problem":
        """One copy of the images per run, where the first run has this number among all runs."""
        copies = self.at(torch.arange(len(self.x), device=self.x.device).repeat(len(runs)))
        ranks = torch.tensor([run.rank for run in runs], device=self.x.device)
        keys = torch.cat([self.draws.stream(first + k).keys for k in range(len(runs))])
        return replace(copies, rank=ranks.repeat_interleave(len(self.x)), draws=ImageDraws(keys))

    def classes(self) -> Tensor:
        """Labels and targets, (N, 2). The order of the targets is that of the logits of x."""
        others = self.logits.scatter(1, self.y[:, None], -torch.inf)
        order = others.sort(dim=1, descending=True, stable=True).indices
        return torch.stack([self.y, order.gather(1, self.rank[:, None] - 1).squeeze(1)], 1)

    def finished(self, broken: Tensor) -> Tensor:
        """Whether each copy needs no more steps, (N,), because it or the copy of an earlier run is broken.

        Later runs of a broken image do not count, so copies of earlier runs go on. The result of an image is therefore
        that of its runs one after another.
        """
        place = torch.arange(len(broken), device=broken.device)
        first = place.new_full((int(self.image.max()) + 1,), len(broken))
        first = first.scatter_reduce(0, self.image[broken], place[broken], "amin")
        return place >= first[self.image]

    def margins(self, points: Tensor) -> Tensor:
        """The margin of each point, (N,): at least 0 if it is misclassified."""
        return margins(predict(self.model, points, self.batch_size), self.y)

    def differentiate(self, points: Tensor, classes: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The margin (N,), the loss (N,) and the loss's gradient (N, *S) at points."""
        logits, gradient = predict_and_differentiate(self.model, points, classes, self.batch_size, loss)
        return margins(logits, self.y), loss(logits, classes), gradient


Search = Callable[[Problem], tuple[Tensor, Tensor]]
"""Perturbs the images of a problem: the points in the ball, and their margins (N,)."""


@dataclass(frozen=True)
class Run:
    """A search, and the rank of its target if it has one. Runs that share a search can share its passes."""

    search: Search
    rank: int = 1


class AttackOfRuns(Attack):
    """An attack in several runs. An image that a run broke takes no part in later runs.

    Its random numbers belong to each image alone. Its results therefore depend neither on the batch size nor on the
    other images, up to rounding in the network. The first run works alone, because it breaks most images. Later runs
    of one search work together, as many as fit into a batch.
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
        runs = list(self.runs(logits.shape[1]))
        best, best_margin = x.clone(), margins(logits, y)
        if eps == 0:
            return best
        draws, images = ImageDraws.of(len(x), generator, x.device), torch.arange(len(x), device=x.device)
        problem = Problem(model, x, y, logits, eps, self.norm, draws, batch_size, torch.ones_like(images), images)
        done = 0
        while done < len(runs):
            standing = (best_margin < 0).nonzero().squeeze(1)
            if not len(standing):
                break
            together = _runs_together(runs[done:], batch_size // len(standing) if done else 1)
            points, margin = together[0].search(problem.at(standing).copies(together, done))
            for found, strength in zip(points.split(len(standing)), margin.split(len(standing)), strict=True):
                better = (best_margin[standing] < 0) & (strength > best_margin[standing])
                best[standing[better]], best_margin[standing[better]] = found[better], strength[better]
            done += len(together)
        return best


def _runs_together(runs: Sequence[Run], room: int) -> list[Run]:
    """The next runs of one search: as many as there is room for, and at least one."""
    alike = list(takewhile(lambda run: run.search is runs[0].search, runs))
    return alike[: max(room, 1)]
