"""A small convolutional network, trained on scikit-learn's digits."""

from copy import deepcopy
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from dampode import data


@cache
def digits():
    """Test images (360, 1, 8, 8) in [0, 1] and labels."""
    images = data.load("digits")
    return data.pixels(images.x_test), images.y_test


def few_digits():
    """The first 150 of the test images, and their labels."""
    x, y = digits()
    return x[:150], y[:150]


def classifier():
    """A fresh copy of the trained network, in eval mode. It classifies about 96 % correctly."""
    return deepcopy(_trained()).eval()


@cache
def _trained():
    images = data.load("digits")
    x, y = data.pixels(images.x_train), images.y_train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(8):
            for chosen in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[chosen]), y[chosen]).backward()
                optimizer.step()
    return model
