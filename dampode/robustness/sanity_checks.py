"""Sanity checks of a measured robustness: a defence that only hides its gradients fails at least one of them.

A comparison of two accuracies on the same images allows two standard errors of their paired difference. If a property
holds with equality, its comparison therefore fails with a probability of at most 2.3 %.

Source: Athalye et al. 2018; Carlini et al. 2019.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dampode.robustness.attacks.traits import AttackTraits
from dampode.robustness.results import PROBES, Column, SanityCheck

__all__ = ["check", "paired_difference"]

ROUNDING = 1e-6
ALLOWED_CHANGE = 0.005
"""Accuracy that twice the steps, more restarts or shorter steps may take away."""
ALLOWED_SHARE = 0.01
"""Accuracy that may remain at a large radius, and share of images that may have no gradient or other logits."""
ALLOWED_DISAGREEMENT = 0.1
"""Share of images whose gradient may disagree with finite differences: a network of relu has kinks."""
ALLOWED_GAIN = 0.05
"""Accuracy that a loss may take away by ignoring the logits' scale: it is another loss, so a small gain is no sign."""

STRENGTH_ORDER: dict[str, Callable[[AttackTraits], bool]] = {
    "random noise": lambda t: not t.gradient_based and not t.iterated,
    "a gradient step": lambda t: t.gradient_based and not t.iterated,
    "an iterated attack": lambda t: t.iterates_own_gradient and not t.random_start,
    "an iterated attack from a random start": lambda t: t.iterates_own_gradient and t.random_start,
}
"""Kinds of attack on the model itself, weakest first, and the traits that define each kind. The last two follow the
gradient."""


@dataclass(frozen=True)
class _Case:
    """One comparison of a check: it fails if ``excess`` is positive."""

    excess: float
    detail: str


def check(columns: Sequence[Column]) -> tuple[SanityCheck, ...]:
    """Every sanity check of the columns. A check whose columns were not measured is not made.

    A report without attacks makes no claim about them, so it requires only that the model is a function of the image.
    """
    attacks = [c for c in columns if c.group == "attack"]
    probes = {group: [c for c in columns if c.group == group] for group in PROBES}
    own = [c for c in attacks if _has(c, lambda t: not t.transferred)]
    iterated = [c for c in own if _has(c, lambda t: t.iterates_own_gradient)]
    strongest = [c for c in iterated if _has(c, lambda t: t.random_start)] or iterated
    searches = [c for c in own if _has(c, lambda t: t.iterated and not t.gradient_based)]
    transferred = [c for c in attacks if _has(c, lambda t: t.transferred)]
    required = bool(attacks)
    return (
        _share_at_most(
            "the model is a function of the image",
            [(c, 1 - c.accuracy) for c in probes["repeated logits"]],
            "other logits in a second evaluation on {:.1f} % of images",
            True,
        ),
        _unchanged_at_zero(probes["zero radius"], required),
        _inside_ball([c for c in columns if c.traits is not None], required),
        _share_at_most(
            "the gradient is not exactly zero",
            [(c, 1 - c.accuracy) for c in probes["gradient"]],
            "zero on {:.1f} % of clean images",
            required,
        ),
        _share_at_most(
            "the gradient agrees with finite differences",
            [(c, 1 - c.accuracy) for c in probes["finite differences"]],
            "another change of the logits than the gradient tells on {:.1f} % of images",
            required,
            ALLOWED_DISAGREEMENT,
        ),
        _not_weaker(
            "a loss that ignores the logits' scale is at most 5 points stronger",
            probes["cross entropy"],
            probes["logits ratio"],
            ALLOWED_GAIN,
        ),
        *_order(own),
        _falls_with_eps(iterated),
        _share_at_most(
            "accuracy reaches zero at a large ε",
            [(c, c.accuracy) for c in probes["large radius"]],
            "accuracy {:.1f} % at ε = {}",
            required,
        ),
        _work_suffices("twice the steps change less than 0.5 points", iterated, probes["twice the steps"], required),
        _work_suffices("shorter steps change less than 0.5 points", iterated, probes["shorter steps"], False),
        _work_suffices("more restarts change less than 0.5 points", iterated, probes["more restarts"], False),
        _not_weaker(
            "a search without gradients is not stronger",
            [*strongest, *probes["cross entropy"]],
            [*searches, *probes["search without gradients"]],
            required=required,
        ),
        _not_weaker("a transferred attack is not stronger", strongest, transferred),
    )


def paired_difference(a: Column, b: Column) -> tuple[float, float]:
    """Accuracy of a minus that of b on the images of both, and two standard errors of this difference."""
    m = min(len(a.correct), len(b.correct))
    d = a.correct[:m].double() - b.correct[:m].double()
    return d.mean().item(), 2 * (d.var(correction=0).item() / max(m - 1, 1)) ** 0.5


def _has(column: Column, condition: Callable[[AttackTraits], bool]) -> bool:
    return column.traits is not None and condition(column.traits)


def _result(name: str, cases: Sequence[_Case], required: bool = False) -> SanityCheck:
    """The check of several comparisons. Its detail is that of the worst one."""
    if not cases:
        return SanityCheck(name, None, "nothing measured to compare", required)
    worst = max(cases, key=lambda case: (case.excess, case.detail))
    suffix = f"; the worst of {len(cases)}" if len(cases) > 1 else ""
    return SanityCheck(name, worst.excess <= 0, worst.detail + suffix, required)


def _order(attacks: Sequence[Column]) -> Iterable[SanityCheck]:
    """Compare each kind of attack with the next stronger kind, and with the next stronger kind that was measured."""
    kinds = {name: [c for c in attacks if _has(c, condition)] for name, condition in STRENGTH_ORDER.items()}
    pairs = dict.fromkeys([*pairwise(kinds), *pairwise(name for name, found in kinds.items() if found)])
    return [
        _not_weaker(f"{strong} is at least as strong as {weak}", kinds[strong], kinds[weak]) for weak, strong in pairs
    ]


def _not_weaker(
    name: str, strong: Sequence[Column], weak: Sequence[Column], slack: float = 0.0, required: bool = False
) -> SanityCheck:
    """No strong attack leaves a higher accuracy than a weak one of the same radius and largest distance."""
    cases = [_comparison(a, b, slack) for a in strong for b in weak if _same_ball(a, b)]
    return _result(name, cases, required)


def _work_suffices(name: str, attacks: Sequence[Column], probes: Sequence[Column], required: bool) -> SanityCheck:
    """An attack with more steps, more restarts or shorter steps leaves about the same accuracy as the attack itself."""
    pairs = [(a, b) for a in attacks for b in probes if a.name == b.name and _same_ball(a, b)]
    return _result(name, [_comparison(a, b, ALLOWED_CHANGE) for a, b in pairs], required)


def _same_ball(a: Column, b: Column) -> bool:
    """Whether two attacks may move images equally far, so that their accuracies can be compared."""
    distances = {(c.traits.max_distance, c.traits.norm) for c in (a, b) if c.traits is not None}
    return a.strength == b.strength and len(distances) == 1


def _comparison(strong: Column, weak: Column, slack: float) -> _Case:
    """The excess of the accuracy under the strong attack over that under the weak one."""
    difference, margin = paired_difference(strong, weak)
    m = min(len(strong.correct), len(weak.correct))
    accuracies = [100 * c.correct[:m].double().mean().item() for c in (strong, weak)]
    detail = (
        f"accuracy {accuracies[0]:.1f} % under {strong.label}, {accuracies[1]:.1f} % under {weak.label} at "
        f"ε = {strong.radius}, margin {100 * margin:.1f} points, {m} images"
    )
    return _Case(difference - slack - margin, detail)


def _falls_with_eps(columns: Sequence[Column]) -> SanityCheck:
    cases = []
    for name in dict.fromkeys(c.name for c in columns):
        curve = sorted((c for c in columns if c.name == name), key=lambda c: c.strength)
        for near, far in pairwise(curve):
            rise, margin = paired_difference(far, near)
            detail = (
                f"{name}: {100 * near.accuracy:.1f} % at ε = {near.radius}, {100 * far.accuracy:.1f} % "
                f"at {far.radius}, margin {100 * margin:.1f} points"
            )
            cases.append(_Case(rise - margin, detail))
    return _result("under an iterated attack accuracy falls as ε grows", cases)


def _share_at_most(
    name: str,
    shares: Sequence[tuple[Column, float]],
    words: str,
    required: bool,
    allowed: float = ALLOWED_SHARE,
) -> SanityCheck:
    """A share of images is at most the allowed one, up to two standard errors."""
    cases = []
    for c, share in shares:
        m = len(c.correct)
        numbers = words.format(100 * share, c.radius)
        detail = f"{numbers} ({100 * allowed:g} % allowed), {m} images"
        cases.append(_Case(share - allowed - 2 * (share * (1 - share) / m) ** 0.5, detail))
    return _result(name, cases, required)


def _unchanged_at_zero(columns: Sequence[Column], required: bool) -> SanityCheck:
    cases = [_Case(1 - c.accuracy, f"{c.name} at ε = 0: {int((~c.correct).sum())} images changed") for c in columns]
    return _result("at ε = 0 an attack changes nothing", cases, required)


def _inside_ball(columns: Sequence[Column], required: bool) -> SanityCheck:
    cases = [_Case(c.overshoot - ROUNDING, f"{c.label} at ε = {c.radius}: {c.overshoot:.1e} outside") for c in columns]
    return _result("perturbed images stay in their ball and in [0, 1]", cases, required)
