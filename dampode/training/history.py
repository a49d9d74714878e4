"""The history of a training run, epoch by epoch, and whether the run failed."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dampode.damping import Learned

__all__ = ["History", "chance_accuracy", "lam_range"]


@dataclass
class History:
    """One entry per epoch.

    Args:
        loss: mean loss over the epoch's augmented images.
        accuracy: share of these images that was classified correctly in train mode, while the weights changed.
        seconds: duration of the epoch.
        lam: smallest, mean and largest learned λ at the end of the epoch; empty if no λ is learned.
        diverged: whether the last loss is not finite.
        at_chance: whether the last accuracy is no better than always naming the most frequent class.
    """

    loss: list[float]
    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lam: list[list[float]] = field(default_factory=list)
    diverged: bool = False
    at_chance: bool = False

    @property
    def failed(self) -> bool:
        """Whether the run ended diverged or at chance, like the paper's failed runs (Table 5)."""
        return self.diverged or self.at_chance

    def last_epoch(self, epochs: int) -> str:
        """The last epoch of ``epochs`` in one line."""
        return (
            f"epoch {len(self.loss)} of {epochs}, loss {self.loss[-1]:.4f}, "
            f"accuracy {100 * self.accuracy[-1]:.1f} %, {self.seconds[-1]:.1f} s"
        )

    def add(self, loss: float, accuracy: float, seconds: float, lam: list[float], chance: float) -> None:
        """Append an epoch; ``chance`` is the accuracy that the epoch must exceed."""
        self.loss.append(loss)
        self.accuracy.append(accuracy)
        self.seconds.append(seconds)
        self.lam.append(lam)
        self.diverged = not math.isfinite(loss)
        self.at_chance = accuracy <= chance


def chance_accuracy(labels: Tensor) -> float:
    """The accuracy of guessing labels (N,): p + 3 √(p (1 − p) / N), where p is the share of the most frequent class."""
    n = len(labels)
    share = labels.bincount().max().item() / n
    return share + 3 * math.sqrt(share * (1 - share) / n)


@torch.no_grad()
def lam_range(model: nn.Module) -> list[float]:
    """Smallest, mean and largest learned λ of a model; empty if the model learns no λ."""
    dampings = [module for module in model.modules() if isinstance(module, Learned)]
    if not dampings:
        return []
    values = torch.cat([damping(0.0, damping.raw).flatten() for damping in dampings])
    return [values.min().item(), values.mean().item(), values.max().item()]
