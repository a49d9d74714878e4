"""The laws that robustness obeys where it is real: a defence that only hides its gradients breaks one of them.

A comparison of two accuracies on the same images has a margin of two standard errors of their difference, paired, so
that a law that holds with equality is called broken in at most 2.3 % of comparisons.

Source: Athalye et al. 2018; Carlini et al. 2019.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from dampode.robustness.report import Column, Law, radius

ORDER = ("UniformNoise", "FGSM", "IFGSM", "PGD")
"""Kinds of attack, weakest first."""
ROUNDING = 1e-6
CHANGE = 0.005
"""Accuracy that twice the work may take."""
FLOOR = 0.01
"""Accuracy that may be left, and share of images whose gradient may vanish."""


def check(columns: Sequence[Column]) -> tuple[Law, ...]:
    """Every law on what was measured; a law whose columns are not there is not checked.

    Each kind of attack is compared with the next stronger one, and with the next that was measured.
    """
    attacks = [c for c in columns if c.group == "attack"]
    probes = {kind: [c for c in columns if c.group == "probe" and c.kind == kind] for kind in PROBES}
    iterated = [c for c in attacks if c.kind in ("IFGSM", "PGD")]
    strongest = [c for c in attacks if c.kind == "PGD"] or iterated
    others = [c for c in (*attacks, *probes["Square"]) if c.kind == "Square"]
    return (
        _repeatable(probes["repeated"]),
        _everywhere("at ε = 0 an attack changes nothing", probes["zero"]),
        _inside([c for c in columns if c.group in ("attack", "probe")]),
        _vanishing(probes["gradient"]),
        *(
            _not_stronger(f"{strong} is at least as strong as {weak}", _at(attacks, strong), _at(attacks, weak))
            for weak, strong in dict.fromkeys([*pairwise(ORDER), *pairwise(k for k in ORDER if _at(attacks, k))])
        ),
        _falling(iterated),
        _reaches_zero(probes["large radius"]),
        _not_stronger("twice the steps change less than 0.5 points", strongest, probes["more steps"], CHANGE),
        _not_stronger("more restarts change less than 0.5 points", strongest, probes["more restarts"], CHANGE),
        _not_stronger("a search without gradients is not stronger", strongest, others),
        _not_stronger("a transferred attack is not stronger", strongest, _at(attacks, "Transfer")),
    )


PROBES = ("repeated", "zero", "gradient", "more steps", "more restarts", "large radius", "Square")
"""Kinds of the columns that are measured for the laws alone."""


def paired(a: Column, b: Column) -> tuple[float, float]:
    """Accuracy of a less that of b on the images of both, and two standard errors of it."""
    m = min(len(a.correct), len(b.correct))
    d = a.correct[:m].double() - b.correct[:m].double()
    return d.mean().item(), 2 * (d.var(correction=0).item() / max(m - 1, 1)) ** 0.5


def _at(columns: Iterable[Column], kind: str) -> list[Column]:
    return [c for c in columns if c.kind == kind]


def _worst(name: str, cases: list[tuple[float, str]]) -> Law:
    """The law of cases (by how much it is broken, numbers): what it says is the worst of them."""
    if not cases:
        return Law(name, None, "nothing measured to compare")
    excess, detail = max(cases)
    return Law(name, excess <= 0, detail + (f"; the worst of {len(cases)}" if len(cases) > 1 else ""))


def _not_stronger(name: str, strong: list[Column], weak: list[Column], slack: float = 0.0) -> Law:
    """No weak column lies below the strong one of its radius, but by a slack and two standard errors."""
    cases = []
    for a in strong:
        for b in weak:
            if a.strength == b.strength:
                lead, margin = paired(a, b)
                m = min(len(a.correct), len(b.correct))
                left = [100 * c.correct[:m].double().mean().item() for c in (a, b)]
                detail = (
                    f"{a.name} leaves {left[0]:.1f} %, {b.name} {left[1]:.1f} % at ε = {radius(a.strength)}, "
                    f"margin {100 * margin:.1f} points, {m} images"
                )
                cases.append((lead - slack - margin, detail))
    return _worst(name, cases)


def _falling(columns: list[Column]) -> Law:
    cases = []
    for name in dict.fromkeys(c.name for c in columns):
        curve = sorted((c for c in columns if c.name == name), key=lambda c: c.strength)
        for near, far in pairwise(curve):
            rise, margin = paired(far, near)
            detail = (
                f"{name}: {100 * near.accuracy:.1f} % at ε = {radius(near.strength)}, {100 * far.accuracy:.1f} % at "
                f"{radius(far.strength)}, margin {100 * margin:.1f} points"
            )
            cases.append((rise - margin, detail))
    return _worst("under an iterated attack accuracy falls as ε grows", cases)


def _reaches_zero(columns: list[Column]) -> Law:
    return _share("accuracy reaches zero at a large ε", columns, lambda c: c.accuracy, "{:.1f} % left at ε = {}")


def _repeatable(columns: list[Column]) -> Law:
    name = "the model is a function of the image"
    return _share(name, columns, lambda c: 1 - c.accuracy, "other logits when asked again on {:.1f} % of images")


def _vanishing(columns: list[Column]) -> Law:
    name = "the gradient is not exactly zero"
    return _share(name, columns, lambda c: 1 - c.accuracy, "zero on {:.1f} % of clean images")


def _share(name: str, columns: list[Column], share: Callable[[Column], float], words: str) -> Law:
    """A share of images is at most ``FLOOR``, but by two standard errors."""
    cases = []
    for c in columns:
        p, m = share(c), len(c.correct)
        detail = words.format(100 * p, radius(c.strength)) + f" ({100 * FLOOR:g} % allowed), {m} images"
        cases.append((p - FLOOR - 2 * (p * (1 - p) / m) ** 0.5, detail))
    return _worst(name, cases)


def _everywhere(name: str, columns: list[Column]) -> Law:
    return _worst(name, [(1 - c.accuracy, f"{c.name}: {int((~c.correct).sum())} images changed") for c in columns])


def _inside(columns: list[Column]) -> Law:
    cases = [(c.excess - ROUNDING, f"{c.name} at ε = {radius(c.strength)}: {c.excess:.1e} beyond") for c in columns]
    return _worst("perturbed images stay in their ball and in [0, 1]", cases)
