"""The classifiers of the random calls of `evaluate`: sound ones and broken ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "SHAPE", "sound"]

SHAPE = (2, 4, 4)
"""Channels, height and width of the images."""
CLASSES = 3


class Wrapped(nn.Module):
    """A sound classifier whose input or output is changed."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Any] = lambda z: z):
        super().__init__()
        self.net, self.before, self.after = sound(), before, after

    def forward(self, x: Tensor) -> Any:
        """Whatever ``after`` makes of the logits."""
        return self.after(self.net(self.before(x)))


def sound() -> nn.Module:
    """A small convolutional classifier."""
    channels, height, width = SHAPE
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * height * width, CLASSES)
    )


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], CLASSES))


def _normalized() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(SHAPE[0]), sound())


def _with_nan_weights() -> nn.Module:
    model = sound()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = torch.nan
    return model


def _scaled(factor: float) -> nn.Module:
    model = sound()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def _frozen() -> nn.Module:
    return sound().requires_grad_(False)


def _one_logit() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 1))


MODELS: dict[str, Callable[[], Any]] = {
    "convolutional": sound,
    "linear": _linear,
    "batch norm": _normalized,
    "in eval mode": lambda: sound().eval(),
    "frozen": _frozen,
    "NaN weights": _with_nan_weights,
    "weights of 0": lambda: _scaled(0.0),
    "weights of 1e15": lambda: _scaled(1e15),
    "weights of 1e38": lambda: _scaled(1e38),
    "one logit": _one_logit,
    "detached input": lambda: Wrapped(before=Tensor.detach),
    "detached logits": lambda: Wrapped(after=Tensor.detach),
    "argmax": lambda: Wrapped(after=lambda z: z.argmax(1)),
    "votes": lambda: Wrapped(after=lambda z: torch.nn.functional.one_hot(z.argmax(1), CLASSES).float()),
    "integer logits": lambda: Wrapped(after=lambda z: (100 * z).long()),
    "probabilities": lambda: Wrapped(after=lambda z: z.softmax(1)),
    "a tuple": lambda: Wrapped(after=lambda z: (z, z)),
    "None": lambda: Wrapped(after=lambda z: None),
    "summed logits": lambda: Wrapped(after=lambda z: z.sum()),
    "logits of another shape": lambda: Wrapped(after=lambda z: z[:, :, None]),
    "logits of half": lambda: Wrapped(after=Tensor.half),
    "complex logits": lambda: Wrapped(after=lambda z: z.to(torch.complex64)),
    "random": lambda: Wrapped(after=lambda z: z + torch.randn_like(z)),
    "of the batch": lambda: Wrapped(after=lambda z: z - z.mean(0)),
    "changes its input": lambda: Wrapped(before=lambda x: x.mul_(0.5)),
    "infinite logits": lambda: Wrapped(after=lambda z: torch.where(z > 0, torch.inf, z)),
    "rounded input": lambda: Wrapped(before=lambda x: (x * 255).round() / 255),
    "no gradient inside": lambda: Wrapped(before=torch.no_grad()(lambda x: x.clone())),
    "float64": lambda: sound().double(),
    "half": lambda: sound().half(),
    "bfloat16": lambda: sound().bfloat16(),
    "scripted": lambda: torch.jit.trace(sound(), torch.rand(1, *SHAPE), check_trace=False),
    "meta": lambda: sound().to("meta"),
    "other channels": lambda: nn.Conv2d(5, 3, 3),
    "a function": lambda: lambda x: x.flatten(1)[:, :CLASSES],
    "a class": lambda: nn.Linear,
}
"""Name -> builder."""
