"""Attacks with their settings, as `evaluate` takes them: frozen, printable, called as (model, x, y, eps, ...) -> x'."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int
from dampode._identity import fingerprint
from dampode.robustness.attacks.gradient import Keep, fgsm, ifgsm, pgd, recentered_pgd, require_iteration
from dampode.robustness.attacks.search import square, uniform_noise
from dampode.robustness.classifier import evaluating


class Attack(ABC):
    """An attack in L∞ and its settings.

    Its ``repr`` tells it from others in reports and partial measurements, so it holds no address in memory.
    ``reach`` is the distance it may go, in ε: 1 but for a compatibility protocol.
    """

    reach: ClassVar[float] = 1.0

    @abstractmethod
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels for a model in eval mode."""


@dataclass(frozen=True)
class UniformNoise(Attack):
    """`uniform_noise`: no attack, but the mark that attacks must pass."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return uniform_noise(x, eps, generator)


@dataclass(frozen=True)
class FGSM(Attack):
    """`fgsm`, Eq. 19."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return fgsm(model, x, y, eps, batch_size=batch_size)


@dataclass(frozen=True)
class IFGSM(Attack):
    """`ifgsm`, Eq. 20, with its settings."""

    alpha: float = 2 / 255
    steps: int = 20
    keep: Keep = "first"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return ifgsm(model, x, y, eps, alpha=self.alpha, steps=self.steps, keep=self.keep, batch_size=batch_size)


@dataclass(frozen=True)
class PGD(Attack):
    """`pgd` with its settings."""

    alpha: float = 2 / 255
    steps: int = 20
    restarts: int = 1
    keep: Keep = "first"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep)
        require_positive_int(self.restarts, "restarts")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return pgd(
            model,
            x,
            y,
            eps,
            alpha=self.alpha,
            steps=self.steps,
            restarts=self.restarts,
            keep=self.keep,
            generator=generator,
            batch_size=batch_size,
        )


@dataclass(frozen=True)
class RecenteredPGD(Attack):
    """`recentered_pgd`, the protocol of the authors' code: it goes up to 2ε, so it counts in no worst case."""

    reach: ClassVar[float] = 2.0
    alpha: float = 1 / 255
    steps: int = 20

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, "last")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return recentered_pgd(
            model, x, y, eps, alpha=self.alpha, steps=self.steps, generator=generator, batch_size=batch_size
        )


@dataclass(frozen=True)
class Square(Attack):
    """`square` with its settings."""

    queries: int = 200

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.queries, "queries")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        return square(model, x, y, eps, queries=self.queries, generator=generator, batch_size=batch_size)


@dataclass(frozen=True, repr=False)
class Transfer(Attack):
    """Another attack on another model: what breaks the source is tried on the model.

    Args:
        source: a classifier of the same images, such as the plain twin of a damped network.
        attack: the attack on it. It should keep the strongest iterate: the first to break the source breaks little
            else.
    """

    source: nn.Module
    attack: Attack = PGD(keep="strongest")

    def __post_init__(self) -> None:
        """Check the settings."""
        require_instance(self.source, nn.Module, "source")
        require_instance(self.attack, Attack, "attack")

    def __repr__(self) -> str:
        return f"Transfer(source={type(self.source).__name__} {fingerprint(self.source)[:12]}, attack={self.attack})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator, batch_size: int
    ) -> Tensor:
        """Perturbed pixels."""
        with evaluating(self.source):
            return self.attack(self.source, x, y, eps, generator, batch_size)
