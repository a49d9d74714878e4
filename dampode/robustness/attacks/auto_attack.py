"""AutoAttack: several attacks in order, each on the images that still stand."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, Self, get_args

from dampode._checks import require_positive_int
from dampode.robustness.attacks.apgd import APGD, TargetedAPGD
from dampode.robustness.attacks.fab import FAB, TargetedFAB
from dampode.robustness.attacks.runs import AttackOfRuns, Run
from dampode.robustness.attacks.square import SCHEDULED, Square
from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.norms import Norm, require_norm

__all__ = ["AutoAttack", "Version"]

Version = Literal["standard", "plus", "rand"]
"""Which attacks `AutoAttack` runs."""
RESTARTS, REPEATS = 5, 20


@dataclass(frozen=True)
class AutoAttack(AttackOfRuns):
    """The attacks of a version in order, each on the images that still stand.

    - standard: APGD on the cross entropy, targeted APGD, targeted FAB, Square
    - plus: APGD on the cross entropy and on the difference of logits ratio and FAB, 5 starts each; then Square,
      targeted APGD and targeted FAB
    - rand: APGD on both losses, each step along the mean of 20 gradients; for randomized models

    Args:
        norm: "linf" or "l2".
        version: "standard", "plus" or "rand".
        steps: iterations of APGD and FAB.
        queries: forward passes per image of Square. Its squares shrink as if it had 10,000.

    Raises:
        ValueError, TypeError: a setting is out of range; when called, the model has fewer than 4 classes, or in "rand"
            fewer than 3.

    Source: Croce & Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks.
    """

    norm: Norm = "linf"
    version: Version = "standard"
    steps: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        """Check the settings."""
        require_norm(self.norm)
        if self.version not in get_args(Version):
            raise ValueError(f'version must be "standard", "plus" or "rand", got {self.version!r}')
        require_positive_int(self.steps, "steps")
        require_positive_int(self.queries, "queries")

    @property
    def traits(self) -> AttackTraits:
        """Iterations along the gradient from random starts, and a search."""
        return AttackTraits(gradient_based=True, iterated=True, random_start=True, norm=self.norm)

    @property
    def attacks(self) -> tuple[AttackOfRuns, ...]:
        """The attacks in their order."""
        norm, steps = self.norm, self.steps
        targeted = TargetedAPGD(steps=steps, norm=norm), TargetedFAB(steps=steps, norm=norm)
        square = Square(self.queries, SCHEDULED, norm)
        if self.version == "standard":
            return APGD("ce", steps, norm=norm), *targeted, square
        if self.version == "rand":
            return APGD("ce", steps, repeats=REPEATS, norm=norm), APGD("dlr", steps, repeats=REPEATS, norm=norm)
        starts = APGD("ce", steps, RESTARTS, norm=norm), APGD("dlr", steps, RESTARTS, norm=norm)
        return *starts, FAB(steps, RESTARTS, norm), square, *targeted

    def runs(self, classes: int) -> Iterable[Run]:
        """The runs of all attacks."""
        return chain.from_iterable([attack.runs(classes) for attack in self.attacks])

    def with_twice_the_steps(self) -> Self:
        """The same attacks with twice the steps and queries."""
        return replace(self, steps=2 * self.steps, queries=2 * self.queries)
