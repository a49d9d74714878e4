"""A classifier as attacks and measurements use it: in eval mode, in batches, with checked outputs."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import (
    require_labels,
    require_labels_below,
    require_logits,
    require_positive_int,
)
from dampode._precision import default_dtype, full_float32
from dampode.robustness.ensemble import Ensemble
from dampode.robustness.inputs import as_pixels
from dampode.robustness.modes import eval_mode, frozen, require_model

__all__ = [
    "PROBABILITIES",
    "ProbabilitiesWarning",
    "accuracy",
    "attacked_in_eval_mode",
    "correct",
    "gives_probabilities",
    "margins",
    "predict",
    "predict_and_differentiate",
    "require_dependence",
    "same_logits",
]

LOGIT_TOLERANCE = 0.01
"""Largest difference between two evaluations of an image's logits, relative to the logits' scale. Rounding, and
integration steps that are chosen per batch, make such differences."""

SUFFICIENT_IMAGES = 10
"""Images on which equal logits are no chance, also where logits have few values, such as votes."""

PROBABILITIES = (
    "look like probabilities (at least 0, sum 1), but are taken as logits; remove the softmax, or the gradients are "
    "too small for an attack"
)


class ProbabilitiesWarning(UserWarning):
    """Outputs look like probabilities, but are taken as logits."""


def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Logits (N, K) of images in batches, without a graph. A logit that is not finite raises a ValueError."""
    with torch.no_grad(), full_float32(), default_dtype(x.dtype):
        return _finite(torch.cat([_logits(model, images) for images in x.split(batch_size)]))


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The cross entropy of each image, (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def predict_and_differentiate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    loss: Callable[[Tensor, Tensor], Tensor] = _cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the gradient of the summed loss with respect to x, in batches.

    Gradients of the parameters are neither computed nor accumulated.

    Args:
        model: classifier of pixels, in eval mode.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,), or several classes per image, (N, m), as the loss takes them.
        batch_size: images per pass.
        loss: (logits, y) -> the loss of each image, (N,).

    Raises:
        ValueError: the logits have no gradient with respect to x, or a logit is not finite.
    """
    logits, gradients = [], []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        with torch.inference_mode(False), torch.enable_grad(), full_float32(), default_dtype(x.dtype):
            leaf = images.detach().clone().requires_grad_()  # clone: autograd cannot save an inference tensor
            z = _logits(model, leaf)
            gradients.append(_gradient(loss(z, labels.clone()).sum(), leaf))
        logits.append(z.detach())
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
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images per forward pass.

    Raises:
        ValueError: a pixel lies outside [0, 1], there are no images, the number of labels differs from that of
            images, a label is not a class of the model, or a logit is NaN or infinite.
        TypeError: labels are not int64, or pixels are not float32 or float64.
    """
    require_positive_int(batch_size, "batch_size")
    x = as_pixels(x)
    require_labels(y, len(x))
    with eval_mode(model):
        logits = predict(model, x, batch_size)
    require_labels_below(y, logits.shape[1])
    return logits.argmax(1) == y


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 500) -> float:
    """Share of images classified correctly, in [0, 1].

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        batch_size: images per forward pass.

    Raises:
        ValueError: there are no images, the number of labels differs from that of images, a label is not a class of
            the model, or a logit is NaN or infinite.
        TypeError: labels are not int64, or pixels are not float32 or float64.
    """
    return correct(model, x, y, batch_size).double().mean().item()


@contextmanager
def attacked_in_eval_mode(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Put a model into `eval_mode` and `frozen` for an attack, and check that images and labels fit it.

    Yields:
        The pixels of `as_pixels`.

    Raises:
        ValueError: pixels lie outside [0, 1], labels do not fit the images or the model, or a logit is not finite.
        TypeError: pixels are not float32 or float64, or labels are not int64.

    Warns:
        UserWarning: a module of the model is in training mode, or the outputs look like probabilities.
    """
    require_model(model)
    x = as_pixels(x)
    require_labels(y, len(x))
    with eval_mode(model) as was_training, frozen(model):
        if was_training:
            warnings.warn(
                f"{was_training[0]} is in training mode; the model is attacked in eval mode, then its modes are "
                "restored",
                stacklevel=4,
            )
        first = _first_logits(model, x)
        require_labels_below(y, first[0].shape[1])
        if any(map(_look_like_probabilities, first)):
            warnings.warn(f"the outputs of the model {PROBABILITIES}", ProbabilitiesWarning, stacklevel=4)
        yield x


def gives_probabilities(model: nn.Module, x: Tensor) -> bool:
    """Whether the outputs on the first image look like probabilities, those of the model or of an ensemble's member."""
    return any(map(_look_like_probabilities, _first_logits(model, x)))


def require_dependence(name: str, x: Tensor, z: Tensor) -> None:
    """Raise if different images (N, *S) all have the same logits (N, K). With few images this can be chance."""
    if len(x) >= SUFFICIENT_IMAGES and bool((x != x[0]).any()) and bool((z == z[0]).all()):
        raise ValueError(
            f"logits must depend on the image: {name} gives the same logits for all of the first {len(x)} images; "
            "check that its weights are loaded, and that no layer is dead"
        )


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
    """A model's logits (N, K) in x's dtype. What torch says against the images is said in words."""
    try:
        z = model(x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # an exported model asserts the size of its batch
        raise ValueError(_refusal(model, x, error)) from error
    require_logits(z, len(x), 1)
    if z.shape[1] == 1:
        raise ValueError(
            "the model must give a logit for each of two classes or more, got one logit per image; for a binary "
            "classifier with the logit z, give torch.cat([-z, z], 1) / 2"
        )
    logits: Tensor = z.to(x.dtype)
    return logits


def _refusal(model: nn.Module, x: Tensor, error: Exception) -> str:
    """Words for a model that cannot take a batch of images, and the likely remedy."""
    tensors = [*model.parameters(), *model.buffers()]
    dtypes = {str(tensor.dtype) for tensor in tensors if tensor.is_floating_point() and tensor.dtype != x.dtype}
    remedy = "check their channels, size and device; an exported model needs a batch dimension that is dynamic"
    if dtypes:
        remedy = (
            f"the model has tensors of {', '.join(sorted(dtypes))}: convert the model with .float() or .double(), "
            "and the pixels alike"
        )
    if x.requires_grad and any(tensor.is_inference() for tensor in tensors):
        remedy = "the model was made in inference_mode, where nothing has a gradient: make or load it outside"
    need = " that need a gradient" if x.requires_grad else ""
    return (
        f"the model must take pixels of {x.dtype} and shape {tuple(x.shape)} on {x.device}{need}, got from it: "
        f"{str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}; {remedy}"
    )


def _gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of a loss with respect to the pixels, or a worded error."""
    why = "its logits have no graph back to the pixels"
    if loss.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why, gradient = str(error).splitlines()[0], None
        if gradient is not None:
            return gradient
    raise ValueError(
        f"the model must be differentiable for a gradient-based attack, but {why}; remove detach, no_grad, argmax and "
        "quantization from the model, or use an attack without gradients, such as Square"
    )


def _finite(logits: Tensor) -> Tensor:
    """The logits themselves. A ValueError names the first image of logits that are not finite."""
    bad = ~torch.isfinite(logits).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"logits must be finite: {int(bad.sum())} of {len(logits)} images gave NaN or infinity, "
            f"the first of them image {int(bad.nonzero()[0])} of its block; check the model's weights"
        )
    return logits
