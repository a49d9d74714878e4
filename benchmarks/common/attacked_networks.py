"""Two small networks that attacks are compared on: a ResNet-20 trained as usual, and one trained on attacked images."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import nn

from dampode import data, models, training
from dampode.robustness import pgd

__all__ = ["NETWORKS", "ResNet20"]

WIDTH = 8
EPOCHS = 10
BATCH = 128
TRAINED_EPS = 4 / 255
"""The radius of adversarial training."""

ResNet20 = Callable[[data.ImageData, int], nn.Module]
"""(images, seed) -> a trained ResNet-20 in eval mode."""


def standard(images: data.ImageData, seed: int) -> nn.Module:
    """A ResNet-20 of width 8, trained by the engine."""
    torch.manual_seed(seed)
    model = models.resnet(20, images.num_classes, width=WIDTH)
    training.fit(model, images, training.Recipe(EPOCHS, BATCH, milestones=(0.6, 0.9)), seed=seed)
    return model.eval()


def adversarially_trained(images: data.ImageData, seed: int) -> nn.Module:
    """A ResNet-20 of width 8, trained on the images of a PGD of two steps, as in Madry et al. 2018."""
    torch.manual_seed(seed)
    model = models.resnet(20, images.num_classes, width=WIDTH)
    x, y = data.pixels(images.x_train), images.y_train
    steps = EPOCHS * (len(x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH)[: len(x) // BATCH]:
            flipped = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, x[batch], x[batch].flip(3))
            attacked = pgd(model.eval(), flipped, y[batch], TRAINED_EPS, alpha=0.75 * TRAINED_EPS, steps=2, keep="last")
            optimizer.zero_grad()
            F.cross_entropy(model.train()(attacked), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


NETWORKS: Mapping[str, ResNet20] = MappingProxyType(
    {"ResNet-20": standard, "ResNet-20, adversarially trained": adversarially_trained}
)
