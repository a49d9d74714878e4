"""The loss and the predictions around an image, along its FGSM direction and an orthogonal direction, Fig. 2."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import require_positive_int, require_real
from dampode.robustness.classifier import attacked_in_eval_mode, predict, predict_and_differentiate

__all__ = ["Landscape", "fgsm_direction", "landscape", "orthogonal_direction"]

UNIT = 1 / 255
"""Length of one unit of a landscape's axes, in pixel units."""


@dataclass(frozen=True)
class Landscape:
    """Loss and predictions on a grid around N images. All tensors are detached and on the CPU.

    Args:
        along: coordinates a in the FGSM direction, in units of 1/255, (A,).
        across: coordinates b in the orthogonal direction, in units of 1/255, (B,); one of them is 0.
        labels: the true classes, (N,).
        loss: cross entropy at each point, (N, A, B).
        prediction: predicted class at each point, (N, A, B).
    """

    along: tuple[float, ...]
    across: tuple[float, ...]
    labels: Tensor
    loss: Tensor
    prediction: Tensor

    @property
    def line(self) -> Tensor:
        """The loss along the FGSM direction, at b = 0, (N, A)."""
        return self.loss[:, :, self.across.index(0)]

    @property
    def accuracy(self) -> Tensor:
        """Share of the points of each image's grid that are classified correctly, (N,), float64."""
        return (self.prediction == self.labels[:, None, None]).double().mean((1, 2))

    def image(self, n: int) -> "Landscape":
        """The landscape of image n alone.

        Raises:
            IndexError: there is no image n.
        """
        one = range(len(self.labels))[n]
        part = slice(one, one + 1)
        return Landscape(self.along, self.across, self.labels[part], self.loss[part], self.prediction[part])

    def to_json(self) -> str:
        """The whole landscape, axes in units of 1/255."""
        return json.dumps(
            {
                "along": self.along,
                "across": self.across,
                "labels": self.labels.tolist(),
                "loss": self.loss.tolist(),
                "prediction": self.prediction.tolist(),
            },
            allow_nan=False,
        )


def landscape(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    along: Sequence[float],
    across: Sequence[float] = (0.0,),
    seed: int = 0,
    batch_size: int = 500,
) -> Landscape:
    """Loss and prediction at clip(x + (a d + b r) / 255, 0, 1), d the model's FGSM direction, r orthogonal to it.

    d = sign(∂L/∂x), as in Eq. 19. The point a >= 0, b = 0 is therefore the FGSM image of radius ε = a/255. r is a
    random sign vector orthogonal to d, so one unit of either axis moves every pixel by 1/255 before the clip. The same
    seed gives all models the same random numbers, but d and r differ between models.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], clean or corrupted, (N, C, H, W).
        y: labels, (N,).
        along: coordinates a, increasing, in units of 1/255.
        across: coordinates b, increasing, in units of 1/255. They must contain 0. By default, 0 alone: a line.
        seed: seed of r.
        batch_size: grid points per forward pass; a batch may hold points of several images.

    Returns:
        The landscape of all images.

    Raises:
        ValueError: a pixel lies outside [0, 1], labels do not fit, coordinates do not increase or lack 0, the gradient
            of an image is 0, or a logit is not finite.
        TypeError: pixels are not float32 or float64, labels are not int64, or a coordinate is not a number.

    Source: Yang et al. 2020, Sec. 4.3 and Fig. 2. The paper states neither r's scale nor a clip.
    """
    a, b = _coordinates(along, "along"), _coordinates(across, "across")
    if 0 not in b:
        raise ValueError(f"across must hold 0, the FGSM direction itself, got {b}")
    require_positive_int(batch_size, "batch_size")
    with attacked_in_eval_mode(model, x, y) as x:
        d = _direction(model, x, y, batch_size)
        r = orthogonal_direction(d, seed)
        steps_a, steps_b = (torch.tensor(t, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1) for t in (a, b))
        losses, predictions = [], []
        for points in torch.arange(len(x) * len(a) * len(b), device=x.device).split(batch_size):
            n, i, j = points // (len(a) * len(b)), points // len(b) % len(a), points % len(b)
            moved = (x[n] + UNIT * (steps_a[i] * d[n] + steps_b[j] * r[n])).clamp(0, 1)
            logits = predict(model, moved, batch_size)
            losses.append(F.cross_entropy(logits, y[n], reduction="none").cpu())
            predictions.append(logits.argmax(1).cpu())
    shape = (len(x), len(a), len(b))
    return Landscape(a, b, y.cpu(), torch.cat(losses).view(shape), torch.cat(predictions).view(shape))


def fgsm_direction(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> Tensor:
    """The direction d = sign(∂L/∂x) of Eq. 19.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images per forward pass.

    Returns:
        -1, 0 or 1, (N, C, H, W).

    Raises:
        ValueError: as in `fgsm`, or the gradient of an image is 0 everywhere.
    """
    with attacked_in_eval_mode(model, x, y) as x:
        return _direction(model, x, y, batch_size)


def _direction(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """`fgsm_direction` of a checked model in eval mode."""
    d = predict_and_differentiate(model, x, y, batch_size)[1].sign()
    flat = (d == 0).flatten(1).all(1)
    if bool(flat.any()):
        images = flat.nonzero()[:, 0].tolist()
        raise ValueError(f"an FGSM direction needs a gradient, which is 0 at images {images}; leave these images out")
    return d


def orthogonal_direction(d: Tensor, seed: int = 0) -> Tensor:
    """A random sign vector r with <r, d> = 0 exactly, for each image.

    A random half of r's entries has the sign of d, the other half the opposite sign. Where d is 0, r's sign is random.
    If d has an odd number of nonzero entries, one entry of r is 0.

    Args:
        d: -1, 0 or 1, (N, C, H, W).
        seed: seed of the draws, which do not depend on the device.

    Returns:
        -1, 0 or 1, (N, C, H, W).
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    u = torch.rand(d.shape, generator=generator, dtype=torch.float32, device="cpu").to(d.device).flatten(1)
    signs = d.flatten(1)
    support = signs != 0
    rank = torch.where(support, u, 2.0).argsort(1).argsort(1)  # d's nonzero entries come first, in random order
    half = support.sum(1, keepdim=True) // 2
    balanced = (rank < half).to(d.dtype) - ((rank >= half) & (rank < 2 * half)).to(d.dtype)
    free = torch.where(u < 0.5, -1.0, 1.0).to(d.dtype)
    return torch.where(support, balanced * signs, free).view_as(d)


def _coordinates(values: Sequence[float], name: str) -> tuple[float, ...]:
    """The coordinates of an axis: finite and increasing."""
    for value in values:
        require_real(value, f"a coordinate of {name}")
    coordinates = tuple(float(value) for value in values)
    if not coordinates or any(low >= high for low, high in pairwise(coordinates)):
        raise ValueError(f"{name} must hold increasing coordinates, at least one, got {coordinates}")
    return coordinates
