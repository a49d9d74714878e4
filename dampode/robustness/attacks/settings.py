"""The attacks as frozen dataclasses that hold their settings, as `evaluate` takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import ClassVar, Self

from torch import Tensor, nn

from dampode._checks import require_instance, require_positive_int
from dampode._identity import name_with_identity
from dampode.robustness.attacks.gradient import STEP, Keep, fgsm, ifgsm, pgd, recentered_pgd, require_iteration
from dampode.robustness.attacks.traits import Attack, AttackTraits
from dampode.robustness.attacks.uniform import uniform_noise
from dampode.robustness.draws import Generator
from dampode.robustness.modes import eval_mode, require_model
from dampode.robustness.norms import Norm, require_norm

__all__ = ["FGSM", "IFGSM", "PAPER", "PGD", "RecenteredPGD", "Transfer", "UniformNoise"]

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


@dataclass(frozen=True, repr=False)
class FGSM(Attack):
    """`fgsm`, Eq. 19, with its settings and their defaults."""

    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_norm(self.norm)

    @property
    def traits(self) -> AttackTraits:
        """A single step along the gradient."""
        return AttackTraits(gradient_based=True, iterated=False, norm=self.norm)

    def __repr__(self) -> str:
        return _printed(self)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return fgsm(model, x, y, eps, norm=self.norm, batch_size=batch_size)


@dataclass(frozen=True)
class IFGSM(Attack):
    """`ifgsm`, Eq. 20, with its settings and their defaults."""

    traits: ClassVar[AttackTraits] = AttackTraits(gradient_based=True, iterated=True)
    alpha: float | None = None
    steps: int = 20
    keep: Keep = "strongest"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep, "linf")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return ifgsm(model, x, y, eps, alpha=self.alpha, steps=self.steps, keep=self.keep, batch_size=batch_size)

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def with_shorter_steps(self, eps: float) -> Self:
        """The same attack with half the step, or with a step of ε/4 if this is shorter."""
        return replace(self, alpha=_shorter(self.alpha, eps))

    def for_radius(self, eps: float) -> Self:
        """The same attack with a step of ε/4."""
        return replace(self, alpha=None, keep="first")


@dataclass(frozen=True, repr=False)
class PGD(Attack):
    """`pgd` with its settings and their defaults."""

    alpha: float | None = None
    steps: int = 20
    restarts: int = 1
    keep: Keep = "strongest"
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_iteration(self.alpha, self.steps, self.keep, self.norm)
        require_positive_int(self.restarts, "restarts")

    @property
    def traits(self) -> AttackTraits:
        """An iteration along the gradient from a random start."""
        return AttackTraits(gradient_based=True, iterated=True, random_start=True, norm=self.norm)

    def __repr__(self) -> str:
        return _printed(self)

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
            norm=self.norm,
            generator=generator,
            batch_size=batch_size,
        )

    def with_twice_the_steps(self) -> Self:
        """The same attack with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def with_more_restarts(self) -> Self:
        """The same attack with 4 more random starts."""
        return replace(self, restarts=self.restarts + ADDED_RESTARTS)

    def with_shorter_steps(self, eps: float) -> Self:
        """The same attack with half the step, or with a step of ε/4 if this is shorter."""
        return replace(self, alpha=_shorter(self.alpha, eps))

    def for_radius(self, eps: float) -> Self:
        """The same attack with a step of ε/4."""
        return replace(self, alpha=None, keep="first")


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
        require_iteration(self.alpha, self.steps, "last", "linf")

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        return recentered_pgd(
            model, x, y, eps, alpha=self.alpha, steps=self.steps, generator=generator, batch_size=batch_size
        )


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
        return f"Transfer(source={name_with_identity(self.source)}, attack={self.attack})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels."""
        with eval_mode(self.source):
            return self.attack(self.source, x, y, eps, generator, batch_size)


PAPER: Mapping[str, Attack] = MappingProxyType(
    {
        "FGSM": FGSM(),
        "IFGSM": IFGSM(alpha=2 / 255, steps=20, keep="last"),
        "PGD": PGD(alpha=2 / 255, steps=20, keep="last"),
    }
)
"""The attacks of the paper: α = 2/255 at every radius, 20 steps, the last iterate. For comparison with its tables only:
where α is long beside ε, the attacks are weak and a network looks robust.

Source: Yang et al. 2020, Sec. 4.2.
"""


def _shorter(alpha: float | None, eps: float) -> float:
    """Half the step α, or the default step for the radius if this is shorter."""
    default = STEP * eps
    return default / 2 if alpha is None else min(alpha / 2, default)


def _printed(attack: FGSM | PGD) -> str:
    """An attack with its settings. L∞, the norm of most attacks, is not printed."""
    settings = {field.name: getattr(attack, field.name) for field in fields(attack)}
    shown = [f"{name}={value!r}" for name, value in settings.items() if (name, value) != ("norm", "linf")]
    return f"{type(attack).__name__}({', '.join(shown)})"
