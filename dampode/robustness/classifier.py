"""A classifier as attacks and measurements see it: in eval mode, in pieces that fit, its outputs checked."""

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
from dampode.robustness.noise.corruptions import require_pixels

SAME = 0.01
"""Share of the logits' scale by which those of one image may differ: the order of sums, steps chosen for a batch."""

PROBABILITIES = (
    "look like probabilities (at least 0, sum 1), and are taken as logits: leave the softmax out, or gradients are too "
    "small to be followed"
)


class ProbabilitiesWarning(UserWarning):
    """Outputs that look like probabilities are taken as logits."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module of it back into its own mode afterwards, whatever happens."""
    require_instance(model, nn.Module, "model")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Logits (N, K) of images in pieces of ``batch_size``, without a graph; finite, or a ValueError."""
    with torch.no_grad(), full_float32():
        return _finite(torch.cat([_logits(model, images) for images in x.split(batch_size)]))


def predict_and_differentiate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the gradient of the summed cross entropy with respect to x, in pieces of ``batch_size``.

    The gradient is asked for x alone, so that none is computed or accumulated for the parameters.
    """
    logits, gradients = [], []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        with torch.inference_mode(False), torch.enable_grad(), full_float32():
            leaf = images.detach().clone().requires_grad_()  # a clone, as autograd saves no tensor of inference mode
            z = _logits(model, leaf)
            if not z.requires_grad:
                raise ValueError(
                    "the model must be differentiable for an attack along its gradient, but its logits have no graph; "
                    "leave detach, no_grad and argmax out of it, or take square"
                )
            (gradient,) = torch.autograd.grad(F.cross_entropy(z, labels.clone(), reduction="sum"), leaf)
        logits.append(z.detach())
        gradients.append(gradient)
    return _finite(torch.cat(logits)), torch.cat(gradients)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """How far each example is over the border, (N,): max_{j≠y} z_j − z_y, >= 0 where argmax z is wrong, else < 0."""
    label = logits.gather(1, y[:, None]).squeeze(1)
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - label
    tiny = torch.finfo(logits.dtype).tiny
    return torch.where(logits.argmax(1) == y, margin.clamp(max=-tiny), margin)  # a tie may fall either way


def correct(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> Tensor:
    """Whether each image is classified right, (N,) bool on x's device, model in eval mode for the call.

    Args:
        model: classifier of pixels.
        x: images, (N, C, H, W).
        y: labels, (N,).
        batch_size: images a forward pass.

    Raises:
        ValueError: no images, images and labels differ in number, a label is no class of the model, or a logit is NaN
            or infinite.
        TypeError: labels are not int64, or images not floating.
    """
    require_positive_int(batch_size, "batch_size")
    require_instance(x, Tensor, "images")
    require_labels(y, len(x))
    if not x.is_floating_point():
        raise TypeError(f"images must be floating, got {x.dtype}; divide 8-bit images by 255")
    with evaluating(model):
        logits = predict(model, x, batch_size)
    require_labels_below(y, logits.shape[1])
    return logits.argmax(1) == y


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> float:
    """Share of images classified right, model in eval mode for the call.

    Args:
        model: classifier of pixels.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images a forward pass.

    Raises:
        ValueError, TypeError: as `correct`.
    """
    return correct(model, x, y, batch_size).double().mean().item()


@contextmanager
def attackable(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Put a model that is to be attacked into eval mode, as `evaluating`, and check that x and y fit it.

    Raises:
        ValueError, TypeError: they do not fit together.

    Warns:
        UserWarning: a part of the model was in training mode, or it gives probabilities.
    """
    require_instance(model, nn.Module, "model")
    require_pixels(x)
    require_labels(y, len(x))
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        warnings.warn(
            f"{training[0]} is in training mode; the model is attacked in eval mode, and put back", stacklevel=4
        )
    with evaluating(model):
        first = _first(model, x)
        require_labels_below(y, first[0].shape[1])
        if any(map(_probable, first)):
            warnings.warn(f"the outputs of the model {PROBABILITIES}", ProbabilitiesWarning, stacklevel=4)
        yield


def gives_probabilities(model: nn.Module, x: Tensor) -> bool:
    """Whether a model's outputs, or those of a member of an ensemble, look like probabilities on the first image."""
    return any(map(_probable, _first(model, x)))


def same_logits(z: Tensor, other: Tensor) -> Tensor:
    """Whether each image's logits (N, K) agree, (N,): to ``SAME`` of the largest |z_k − mean z| of all images."""
    scale = (z - z.mean(1, keepdim=True)).abs().max()
    return (z - other).abs().amax(1) <= SAME * scale


def _first(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits (1, K) of the first image: the model's, or those of an ensemble's members."""
    if isinstance(model, Ensemble):
        return [z for member in model.members for z in _first(member, x)]
    return [predict(model, x[:1], 1)]


def _probable(z: Tensor) -> bool:
    """Whether logits (1, K) look like probabilities."""
    return bool((z >= 0).all()) and abs(z.sum().item() - 1) < 1e-4


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """A model's logits (N, K) in x's dtype, one row an image."""
    z = model(x)
    require_logits(z, len(x), 1)
    if z.shape[1] == 1:
        raise ValueError(
            "the model must give a logit for each of two classes or more, got one logit an image; of a binary "
            "classifier with the logit z take torch.cat([-z, z], 1) / 2"
        )
    logits: Tensor = z.to(x.dtype)
    return logits


def _finite(logits: Tensor) -> Tensor:
    """The logits, or a ValueError that says where they are not finite."""
    bad = ~torch.isfinite(logits).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"logits must be finite: {int(bad.sum())} of {len(logits)} images gave NaN or infinity, "
            f"the first of them image {int(bad.nonzero()[0])} of its block; look at the model's weights"
        )
    return logits
