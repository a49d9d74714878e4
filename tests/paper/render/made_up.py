"""Made-up results."""

from benchmarks.paper.plan.jobs import Job
from benchmarks.paper.plan.protocols import FULL, TEXT
from benchmarks.paper.plan.rows import ROWS
from benchmarks.paper.run.measure import COLUMNS, NOISES


def made_up(
    row, seeds=(0,), dataset="cifar10", level=0.9, scale=FULL, protocol=TEXT, failed=False, coefficients=(0.2,) * 51
):
    """A result of clean accuracy ``level``; the other accuracies are fixed shares of it."""
    accuracy = {column: level * (1 - 0.02 * k) for k, column in enumerate(COLUMNS)}
    accuracy |= {kind: [level * s for s in (0.9, 0.8, 0.7, 0.6, 0.5)] for kind in NOISES}
    return {
        "config": Job(ROWS[row], dataset, seeds, protocol, scale).config,
        "failed": failed,
        "accuracy": accuracy,
        "reports": None,
        "coefficients": list(coefficients),
        "landscapes": [],
        "training": {"loss": [2.0, 1.0], "accuracy": [level, level]},
    }
