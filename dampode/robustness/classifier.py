"""A classifier as attacks and measurements use it: in eval mode, in batches, with checked outputs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import (
    require_instance,
    require_labels,
    require_labels_below,
    require_logits,
    require_positive_int,
)
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.float32 import full_float32
from dampode.robustness.inputs import require_pixels

__all__ = [
    "PROBABILITIES",
    "ProbabilitiesWarning",
    "accuracy",
    "attacked_in_eval_mode",
    "correct",
    "eval_mode",
    "gives_probabilities",
    "margins",
    "predict",
    "predict_and_differentiate",
    "same_logits",
]

LOGIT_TOLERANCE = 0.01
"""Largest difference between two evaluations of an image's logits, relative to the logits' scale. Rounding, and
integration steps that are chosen per batch, make such differences."""

PROBABILITIES = (
    "look like probabilities (at least 0, sum 1), but are taken as logits; remove the softmax, or the gradients are "
    "too small for an attack"
)


class ProbabilitiesWarning(UserWarning):
    """Outputs look like probabilities, but are taken as logits."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a block of code, then restore the mode of each of its modules."""
    require_instance(model, nn.Module, "model")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Logits (N, K) of images in batches, without a graph. A logit that is not finite raises a ValueError."""
    with torch.no_grad(), full_float32():
        return _finite(torch.cat([_logits(model, images) for images in x.split(batch_size)]))


def predict_and_differentiate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the gradient of the summed cross entropy with respect to x, in batches.

    Gradients of the parameters are neither computed nor accumulated.
    """
    logits, gradients = [], []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        with torch.inference_mode(False), torch.enable_grad(), full_float32():
            leaf = images.detach().clone().requires_grad_()  # clone: autograd cannot save an inference tensor
            z = _logits(model, leaf)
            if not z.requires_grad:
                raise ValueError(
                    "the model must be differentiable for a gradient-based attack, but its logits have no graph; "
                    "remove detach, no_grad and argmax from the model, or use square"
                )
            (gradient,) = torch.autograd.grad(F.cross_entropy(z, labels.clone(), reduction="sum"), leaf)
        logits.append(z.detach())
        gradients.append(gradient)
    return _finite(torch.cat(logits)), torch.cat(gradients)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """The margin max_{j≠y} z_j − z_y of each image, (N,): at least 0 if argmax z is wrong, else below 0."""
    label = logits.gather(1, y[:, None]).squeeze(1)
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - label
    tiny = torch.finfo(logits.dtype).tiny
    return torch.where(logits.argmax(1) == y, margin.clamp(max=-tiny), margin)  # argmax decides a tie


def correct(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> Tensor:
    """Whether each image is classified correctly, (N,) bool on x's device.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: images, (N, C, H, W).
        y: labels, (N,).
        batch_size: images per forward pass.

    Raises:
        ValueError: there are no images, the number of labels differs from that of images, a label is not a class of
            the model, or a logit is NaN or infinite.
        TypeError: labels are not int64, or images are not floating.
    """
    require_positive_int(batch_size, "batch_size")
    require_instance(x, Tensor, "images")
    require_labels(y, len(x))
    if not x.is_floating_point():
        raise TypeError(f"images must be floating, got {x.dtype}; divide 8-bit images by 255")
    with eval_mode(model):
        logits = predict(model, x, batch_size)
    require_labels_below(y, logits.shape[1])
    return logits.argmax(1) == y


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> float:
    """Share of images classified correctly, in [0, 1].

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: images, (N, C, H, W), usually pixels in [0, 1].
        y: labels, (N,).
        batch_size: images per forward pass.

    Raises:
        ValueError: there are no images, the number of labels differs from that of images, a label is not a class of
            the model, or a logit is NaN or infinite.
        TypeError: labels are not int64, or images are not floating.
    """
    return correct(model, x, y, batch_size).double().mean().item()


@contextmanager
def attacked_in_eval_mode(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Put a model into `eval_mode` for an attack, and check that images and labels fit it.

    Raises:
        ValueError: pixels lie outside [0, 1], labels do not fit the images or the model, or a logit is not finite.
        TypeError: pixels are not float32 or float64, or labels are not int64.

    Warns:
        UserWarning: a module of the model is in training mode, or the outputs look like probabilities.
    """
    require_instance(model, nn.Module, "model")
    require_pixels(x)
    require_labels(y, len(x))
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        warnings.warn(
            f"{training[0]} is in training mode; the model is attacked in eval mode, then its modes are restored",
            stacklevel=4,
        )
    with eval_mode(model):
        first = _first_logits(model, x)
        require_labels_below(y, first[0].shape[1])
        if any(map(_look_like_probabilities, first)):
            warnings.warn(f"the outputs of the model {PROBABILITIES}", ProbabilitiesWarning, stacklevel=4)
        yield


def gives_probabilities(model: nn.Module, x: Tensor) -> bool:
    """Whether the outputs on the first image look like probabilities, those of the model or of an ensemble's member."""
    return any(map(_look_like_probabilities, _first_logits(model, x)))


def same_logits(z: Tensor, other: Tensor) -> Tensor:
    """Whether each image's logits (N, K) agree, (N,), to ``LOGIT_TOLERANCE`` of the largest |z_k − mean z|."""
    scale = (z - z.mean(1, keepdim=True)).abs().max()
    return (z - other).abs().amax(1) <= LOGIT_TOLERANCE * scale


def _first_logits(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits (1, K) of the first image, of the model or of each member of an ensemble."""
    if isinstance(model, Ensemble):
        return [z for member in model.members for z in _first_logits(member, x)]
    return [predict(model, x[:1], 1)]


def _look_like_probabilities(z: Tensor) -> bool:
    """Whether logits (1, K) look like probabilities."""
    return bool((z >= 0).all()) and abs(z.sum().item() - 1) < 1e-4


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """A model's logits (N, K) in x's dtype."""
    z = model(x)
    require_logits(z, len(x), 1)
    if z.shape[1] == 1:
        raise ValueError(
            "the model must give a logit for each of two classes or more, got one logit per image; for a binary "
            "classifier with the logit z, give torch.cat([-z, z], 1) / 2"
        )
    logits: Tensor = z.to(x.dtype)
    return logits


def _finite(logits: Tensor) -> Tensor:
    """The logits themselves. A ValueError names the first image of logits that are not finite."""
    bad = ~torch.isfinite(logits).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"logits must be finite: {int(bad.sum())} of {len(logits)} images gave NaN or infinity, "
            f"the first of them image {int(bad.nonzero()[0])} of its block; check the model's weights"
        )
    return logits
