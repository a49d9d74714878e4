"""Dampings that depend on time."""

import torch
from torch import nn

from dampode.damping import Damping


class Pulsating(Damping):
    """λ(t) = 1.5 + sin 3t, the same for all channels."""

    depends_on_state, depends_on_time = False, True

    def forward(self, t, x):
        return 1.5 + torch.sin(3 * torch.as_tensor(t, dtype=x.dtype))


class Liquid(Damping):
    """λ(t, x) = sigmoid(w x + sin 2t), with a weight per channel."""

    depends_on_state = depends_on_time = True

    def __init__(self, d=4):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1.0, 1.0, d, dtype=torch.float64))

    def forward(self, t, x):
        return torch.sigmoid(self.w * x + torch.sin(2 * torch.as_tensor(t, dtype=x.dtype)))
