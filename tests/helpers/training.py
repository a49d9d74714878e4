"""A small data set and small networks for tests of training."""

import torch
from torch import nn

from dampode.data import Augmentation, ImageData


def tiny():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randint(0, 100, (40, 1, 4, 4), dtype=torch.uint8, generator=generator)
    x += (y * 100).to(torch.uint8)[:, None, None, None]
    return ImageData("tiny", x, y, x, y, 2, Augmentation(pad=1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


class Interrupt(nn.Module):
    """The identity, which raises KeyboardInterrupt at its n-th call."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return x
