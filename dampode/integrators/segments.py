"""Segments of a solve: what ``checkpoint=`` counts."""

from itertools import pairwise

from dampode._checks import require_positive_int


def require_segments(count: int | None, steps: int | None = None) -> None:
    """Raise unless ``count`` is None or a positive int of at most ``steps``."""
    if count is None:
        return
    require_positive_int(count, "checkpoint")
    if steps is not None and count > steps:
        raise ValueError(
            f"checkpoint must be at most steps, since a segment holds at least one step: got checkpoint={count}, "
            f"steps={steps}; about the square root of steps keeps the least memory"
        )


def segments(steps: int, count: int) -> list[range]:
    """The numbers of ``steps`` steps in ``count`` segments of nearly equal length, at most one a step."""
    count = min(count, steps)
    return [range(a, b) for a, b in pairwise(steps * k // count for k in range(count + 1))]
