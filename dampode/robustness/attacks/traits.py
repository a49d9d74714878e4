"""What an attack is: the interface that `evaluate` calls, and the traits that sanity checks decide by."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from dampode._checks import require_instance, require_nonnegative
from dampode.robustness.draws import Generator
from dampode.robustness.norms import Norm, require_norm

__all__ = ["Attack", "AttackTraits"]


@dataclass(frozen=True)
class AttackTraits:
    """What an attack is. A report keeps the traits, and every decision about the attack is based on them.

    Args:
        gradient_based: whether the attack follows the gradient of the loss.
        iterated: whether the attack takes more than one step.
        random_start: whether it starts from a random point of the ball.
        transferred: whether it attacks another model, and its result is then given to the measured one.
        max_distance: largest ‖x' − x‖ in units of ε. An attack counts in the worst case if this is at most 1.
        norm: the norm of this distance, "linf" or "l2".

    Raises:
        TypeError: a flag is not a bool, or the distance is not a number.
        ValueError: the distance is negative or not finite, or the norm is unknown.
    """

    gradient_based: bool
    iterated: bool
    random_start: bool = False
    transferred: bool = False
    max_distance: float = 1.0
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        """Check the types, since traits are also read from files."""
        for name in ("gradient_based", "iterated", "random_start", "transferred"):
            require_instance(getattr(self, name), bool, name)
        require_nonnegative(self.max_distance, "max_distance")
        require_norm(self.norm)

    @property
    def within_eps(self) -> bool:
        """Whether perturbed images stay within ε of the image."""
        return self.max_distance <= 1

    @property
    def iterates_own_gradient(self) -> bool:
        """Whether it iterates along the gradient of the measured model, as IFGSM and PGD do."""
        return self.gradient_based and self.iterated and not self.transferred


class Attack(ABC):
    """An attack with its settings.

    A new attack defines ``traits`` and ``__call__``. An iterated attack also defines `with_twice_the_steps`, an attack
    with a fixed step length `with_shorter_steps`, and an attack from random starts `with_more_restarts`. Without them
    the sanity check of that name is not made.

    An attack's ``repr`` identifies it in reports and partial files, so the ``repr`` must hold all settings and no
    memory address. A frozen dataclass has such a ``repr``.
    """

    @property
    @abstractmethod
    def traits(self) -> AttackTraits:
        """What the attack is. A class usually declares it as ``traits: ClassVar[AttackTraits]``."""

    @abstractmethod
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, generator: Generator, batch_size: int
    ) -> Tensor:
        """Perturb pixels.

        Args:
            model: classifier of pixels, in eval mode.
            x: pixels in [0, 1], (N, C, H, W).
            y: labels, (N,).
            eps: radius ε in pixel units, >= 0, in the norm of ``traits``.
            generator: source of the draws, on x's device, as `dampode.robustness.draws.uniform` takes it. In
                `evaluate` each image has its own stream, so that neither batches nor processes change its draws.
            batch_size: images per forward pass.

        Returns:
            The perturbed pixels in [0, 1], at most ``traits.max_distance`` ε from x.
        """

    def with_twice_the_steps(self) -> "Attack | None":
        """The same attack with twice the steps, or None where there is no such attack."""
        return None

    def with_shorter_steps(self, eps: float) -> "Attack | None":
        """The same attack with shorter steps at radius ε, or None where it chooses its step length by itself."""
        return None

    def with_more_restarts(self) -> "Attack | None":
        """The same attack with more random starts, or None where there is no such attack."""
        return None

    def for_radius(self, eps: float) -> "Attack":
        """The same attack with steps long enough to cross a ball of a large radius ε; by default the attack itself."""
        return self
