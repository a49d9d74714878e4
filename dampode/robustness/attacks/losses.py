"""The losses that attacks increase: functions of logits (N, K) and classes, one value per image."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Loss", "cross_entropy", "difference", "dlr", "require_classes", "targeted_dlr"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), classes (N, m)) -> a loss per image, (N,). The first of the m classes is the label."""

TINY = 1e-12


def cross_entropy(z: Tensor, classes: Tensor) -> Tensor:
    """Log Σ_j exp z_j − z_y."""
    return F.cross_entropy(z, classes[:, 0], reduction="none")


def dlr(z: Tensor, classes: Tensor) -> Tensor:
    """The difference of logits ratio, −(z_y − max_{j≠y} z_j) / (z_π1 − z_π3), π the descending order of the logits.

    It does not change if the logits are scaled or shifted, so saturated logits do not hide its gradient.

    Source: Croce & Hein 2020, Eq. 6.
    """
    ordered, order = z.sort(dim=1, descending=True, stable=True)
    label_is_first = order[:, 0] == classes[:, 0]
    other = ordered[:, 1].where(label_is_first, ordered[:, 0])
    return (other - _logit(z, classes[:, 0])) / (ordered[:, 0] - ordered[:, 2] + TINY)


def targeted_dlr(z: Tensor, classes: Tensor) -> Tensor:
    """The difference of logits ratio toward a target t, −(z_y − z_t) / (z_π1 − (z_π3 + z_π4) / 2).

    Args:
        z: logits, (N, K), of at least 4 classes.
        classes: labels and targets, (N, 2).

    Returns:
        The loss of each image, (N,). It is above 0 where the target's logit is above the label's.

    Source: Croce & Hein 2020, Eq. 7.
    """
    ordered = z.sort(dim=1, descending=True, stable=True).values
    return difference(z, classes) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + TINY)


def difference(z: Tensor, classes: Tensor) -> Tensor:
    """z_t − z_y for labels and targets (N, 2)."""
    return _logit(z, classes[:, 1]) - _logit(z, classes[:, 0])


def require_classes(found: int, needed: int, what: str) -> None:
    """Raise if the model has too few classes for a loss."""
    if found < needed:
        raise ValueError(
            f"{what} needs a model of at least {needed} classes, got {found}; attack with APGD(), whose cross entropy "
            "needs two, with TargetedFAB and with Square"
        )


def _logit(z: Tensor, of: Tensor) -> Tensor:
    return z.gather(1, of[:, None]).squeeze(1)
