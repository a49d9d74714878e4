"""What is measured for the sanity checks only, beyond the columns of a report."""

from collections.abc import Mapping, Sequence

from dampode.robustness.attacks.apgd import APGD
from dampode.robustness.attacks.square import Square
from dampode.robustness.attacks.traits import Attack
from dampode.robustness.results import Column
from dampode.robustness.tasks import Setup, Task

__all__ = ["PROBED_IMAGES", "probe_tasks"]

PROBED_IMAGES = 1000
"""Images on which attacks are repeated, by default."""
QUICKLY_PROBED_IMAGES = 100
"""Images on which ε = 0 is tried and the logits are evaluated again."""
QUERIES = 200
"""Forward passes per image of the search without gradients."""
STEPS = 20
"""Steps of the attacks that compare two losses."""
CLASSES_OF_RATIO = 3
"""Classes that the difference of logits ratio needs."""
LARGE_RADIUS = 0.5
"""A radius in L∞ at which no classifier can be right: every image can be moved to mid-gray."""


def probe_tasks(setup: Setup, columns: Sequence[Column], attacks: Mapping[str, Attack], images: int) -> list[Task]:
    """The measurements that the sanity checks need, given the columns measured so far, clean images first.

    Attacks are repeated on the first ``images`` images.
    """
    tasks = [setup.has_repeated_logits(QUICKLY_PROBED_IMAGES)]
    if any(attack.traits.gradient_based and not attack.traits.transferred for attack in attacks.values()):
        tasks += [setup.has_gradient(images), setup.has_agreeing_gradient(QUICKLY_PROBED_IMAGES)]
    tasks += [setup.unchanged_at_zero(name, attack, QUICKLY_PROBED_IMAGES) for name, attack in attacks.items()]
    name = _strongest(attacks)
    if name is None:
        return tasks
    attack, curve = attacks[name], [c for c in columns if c.group == "attack" and c.name == name]
    half = columns[0].accuracy / 2
    sensitive = min(curve, key=lambda c: abs(c.accuracy - half)).strength  # where more work can change most
    largest = max(c.strength for c in curve)  # where gradient masking shows most
    smallest = min((c.strength for c in curve if c.strength > 0), default=sensitive)  # where a step can be too long
    norm = attack.traits.norm
    large = LARGE_RADIUS * (1 if norm == "linf" else setup.x[0].numel() ** 0.5)
    probes = [
        ("twice the steps", attack.with_twice_the_steps(), sensitive),
        ("large radius", attack.for_radius(large), large),
        ("more restarts", attack.with_more_restarts(), sensitive),
    ]
    probes += [("shorter steps", attack.with_shorter_steps(e), e) for e in sorted({smallest, sensitive}) if e > 0]
    tasks += [setup.attacked(name, a, eps, group, images) for group, a, eps in probes if a is not None]
    found = sorted({sensitive, largest})
    tasks += [
        setup.attacked("square search", Square(QUERIES, norm=norm), eps, "search without gradients", images)
        for eps in found
    ]
    if setup.classes >= CLASSES_OF_RATIO:
        losses = {"cross entropy": APGD("ce", STEPS, norm=norm), "logits ratio": APGD("dlr", STEPS, norm=norm)}
        tasks += [setup.attacked("APGD", a, e, group, images) for group, a in losses.items() for e in found]
    return tasks


def _strongest(attacks: Mapping[str, Attack]) -> str | None:
    """The attack to probe: the first iterated gradient attack within ε, one with a random start if there is one."""
    suitable = [name for name, a in attacks.items() if a.traits.iterates_own_gradient and a.traits.within_eps]
    random_start = [name for name in suitable if attacks[name].traits.random_start]
    return next(iter(random_start + suitable), None)
