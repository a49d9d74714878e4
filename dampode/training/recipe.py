"""The recipe of a training run: optimizer, learning rates, batches, augmentation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dampode._checks import require_instance, require_nonnegative, require_positive, require_positive_int
from dampode.damping import Damping
from dampode.data import Augmentation

__all__ = ["Recipe", "optimizer"]


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a learning rate that is divided by 10 at milestones.

    The defaults are the paper's for CIFAR-10. The paper's three recipes are `cifar10`, `cifar100` and `resnext`;
    `dataclasses.replace` varies them.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, over all processes.
        lr: learning rate at the start.
        momentum: momentum of SGD, without Nesterov.
        weight_decay: L2 decay of all parameters.
        decay_damping: whether weight decay acts on damping parameters too, as in the authors' code.
        milestones: shares of the epochs, in [0, 1], after which the learning rate is divided by 10. A milestone is
            rounded to whole epochs, and is at least one epoch.
        augmentation: None for the data set's own (`ImageData.augmentation`). ``Augmentation()`` is the paper's for
            CIFAR: pad 4 with zeros, crop, flip. ``Augmentation(2, mode="reflect")`` is the authors' code.
        micro_batches: the number of pieces of a batch that are computed separately, in sequence or on several
            processes. Each piece has its own batch norm statistics; the gradients are averaged. It must be a multiple
            of the number of processes.

    Raises:
        ValueError, TypeError: a setting is out of range.

    Source: Yang et al. 2020, Sec. 4.1.
    """

    epochs: int = 160
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_damping: bool = True
    milestones: tuple[float, ...] = (0.5, 0.75)
    augmentation: Augmentation | None = None
    micro_batches: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        require_positive_int(self.epochs, "epochs")
        require_positive_int(self.batch_size, "batch_size")
        require_positive(self.lr, "lr")
        require_nonnegative(self.momentum, "momentum")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        require_nonnegative(self.weight_decay, "weight_decay")
        require_instance(self.decay_damping, bool, "decay_damping")
        require_instance(self.milestones, tuple, "milestones")
        for share in self.milestones:
            require_nonnegative(share, "a milestone")
            if share > 1:
                raise ValueError(f"a milestone must be a share of the epochs, at most 1, got {share}; divide by epochs")
        for name in ("lr", "momentum", "weight_decay"):  # a checkpoint cannot hold NumPy's numbers
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "milestones", tuple(float(share) for share in self.milestones))
        if self.augmentation is not None:
            require_instance(self.augmentation, Augmentation, "augmentation")
        require_positive_int(self.micro_batches, "micro_batches")
        if self.micro_batches > self.batch_size:
            raise ValueError(
                f"micro_batches must not exceed batch_size, got {self.micro_batches} for {self.batch_size} images"
            )

    @classmethod
    def cifar10(cls) -> "Recipe":
        """ResNet and (λ-)In-ResNet on CIFAR-10: 160 epochs, lr 0.1, divided by 10 after 80 and 120."""
        return cls()

    @classmethod
    def cifar100(cls) -> "Recipe":
        """ResNet and (λ-)In-ResNet on CIFAR-100: 300 epochs, lr 0.1, divided by 10 after 150 and 225."""
        return cls(epochs=300)

    @classmethod
    def resnext(cls) -> "Recipe":
        """ResNeXt and (λ-)In-ResNeXt: lr 0.05, divided by 10 after 150 and 225 of 300 epochs; weight decay 5e-4."""
        return cls(epochs=300, lr=0.05, weight_decay=5e-4)

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= max(1, round(share * self.epochs)) for share in self.milestones)


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD in which the damping parameters form their own group, with or without weight decay."""
    # each parameter once: two modules may share a λ, or contain each other, and it would be stepped twice
    damping = dict.fromkeys(p for module in model.modules() if isinstance(module, Damping) for p in module.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p not in damping], "weight_decay": recipe.weight_decay},
        {"params": list(damping), "weight_decay": recipe.weight_decay if recipe.decay_damping else 0.0},
    ]
    fused = all(p.device.type == "cuda" and p.is_floating_point() for p in model.parameters())
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=recipe.lr, momentum=recipe.momentum, fused=fused or None
    )
