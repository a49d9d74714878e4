"""The attacks as frozen dataclasses that hold their settings, as `evaluate` takes them."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int
from dampode._identity import fingerprint
from dampode.robustness.attacks.gradient import Keep, fgsm, ifgsm, pgd, recentered_pgd, require_iteration
from dampode.robustness.attacks.search import square, uniform_noise
from dampode.robustness.attacks.traits import Attack, AttackTraits
from dampode.robustness.draws import Generator
from dampode.robustness.modes import eval_mode, require_model

__all__ = ["FGSM", "IFGSM", "PGD", "RecenteredPGD", "Square", "Transfer", "UniformNoise"]

STEPS_ACROSS = 8
"""Steps in which `Attack.for_radius` crosses the ball, from its center to its border."""
ADDED_RESTARTS = 4


@dataclass(frozen=True)
class UniformNoise(Attack):
    """`uniform_noise`: a baseline that every attack must beat."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=False, iterated=False)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return uniform_noise(x, eps, generator)


@dataclass(frozen=True)
class FGSM(Attack):
    """`fgsm`, Eq. 19."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=False)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return fgsm(model, x, y, eps, batch_size=batch_size)


@dataclass(frozen=True)
class IFGSM(Attack):
    """`ifgsm`, Eq. 20, with its settings and their defaults."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=True)
    alpha: float = 2 / 255
    steps: int = 20
    keep: Keep = "strongest"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return ifgsm(model, x, y, eps, alpha=self.alpha, steps=self.steps, keep=self.keep, batch_size=batch_size)

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def for_radius(self, eps: float) -> Self:
        """The same attack with a step of ε/8."""
        return replace(self, alpha=eps / STEPS_ACROSS, keep="first")


@dataclass(frozen=True)
class PGD(Attack):
    """`pgd` with its settings and their defaults."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=True, random_start=True)
    alpha: float = 2 / 255
    steps: int = 20
    restarts: int = 1
    keep: Keep = "strongest"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep)
        require_positive_int(self.restarts, "restarts")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
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

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def with_more_restarts(self) -> Self:
        """The same attack with 4 more random starts."""
        return replace(self, restarts=self.restarts + ADDED_RESTARTS)

    def for_radius(self, eps: float) -> Self:
        """The same attack with a step of ε/8."""
        return replace(self, alpha=eps / STEPS_ACROSS, keep="first")


@dataclass(frozen=True)
class RecenteredPGD(Attack):
    """`recentered_pgd`, the protocol of the authors' code. It goes up to 2ε, so it does not count in the worst case."""

    traits: ClassVar[AttackTraits] = AttackTraits(
        gradient_based=True, iterated=True, random_start=True, max_distance=2.0
    )
    alpha: float = 1 / 255
    steps: int = 20

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, "last")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return recentered_pgd(
            model, x, y, eps, alpha=self.alpha, steps=self.steps, generator=generator, batch_size=batch_size
        )


@dataclass(frozen=True)
class Square(Attack):
    """`square` with its settings and their defaults."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=False, iterated=True, random_start=True)
    queries: int = 200

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.queries, "queries")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return square(model, x, y, eps, queries=self.queries, generator=generator, batch_size=batch_size)

    def with_twice_the_steps(self) -> Self:
        """The same search with twice the queries."""
        return replace(self, queries=2 * self.queries)


@dataclass(frozen=True, repr=False)
class Transfer(Attack):
    """An attack on another model, the source. The measured model classifies the perturbed images.

    Args:
        source: a classifier of the same images, such as the plain twin of a damped network.
        attack: the attack on the source. Its ``keep`` should not be "first": an image that just crosses the source's
            border rarely crosses another model's.
    """

    source: nn.Module
    attack: Attack = PGD()

    def __post_init__(self) -> None:
        """Check the settings."""
        require_model(self.source, "source")
        require_instance(self.attack, Attack, "attack")

    @property
    def traits(self) -> AttackTraits:
        """The traits of the attack on the source, marked as transferred."""
        return replace(self.attack.traits, transferred=True)

    def __repr__(self) -> str:
        return f"Transfer(source={type(self.source).__name__} {fingerprint(self.source)[:12]}, attack={self.attack})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        with eval_mode(self.source):
            return self.attack(self.source, x, y, eps, generator, batch_size)
