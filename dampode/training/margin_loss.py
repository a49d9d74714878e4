"""The loss of a training run: cross entropy, with a margin if one is asked for."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dampode._checks import require_nonnegative, require_positive

__all__ = ["MarginLoss"]


@dataclass(frozen=True)
class MarginLoss:
    """Mean cross entropy of (z − margin · onehot(y)) / temperature. The defaults are the cross entropy of the logits z.

    It trains networks whose certified radius is a margin in units of their Lipschitz constant (`stability.certify`).

    Args:
        margin: number >= 0 that is taken from the logit of the true class, so that the loss asks for this margin.
        temperature: number > 0. Logits with a small Lipschitz constant need a small one.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Prach & Lampert 2022, Almost-orthogonal layers for efficient general-purpose Lipschitz networks.
    """

    margin: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        require_nonnegative(self.margin, "margin")
        require_positive(self.temperature, "temperature")
        for name in ("margin", "temperature"):  # a checkpoint cannot hold NumPy's numbers
            object.__setattr__(self, name, float(getattr(self, name)))

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The mean loss, (), of logits (N, classes) and labels (N,)."""
        if self.margin > 0:
            logits = logits - self.margin * F.one_hot(y, logits.shape[1])
        return F.cross_entropy(logits if self.temperature == 1.0 else logits / self.temperature, y)
