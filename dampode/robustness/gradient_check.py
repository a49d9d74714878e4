"""A model's gradient against finite differences: a gradient that leads nowhere does not tell how the logits change."""

import torch
from torch import Tensor, nn

from dampode.robustness.attacks.losses import difference
from dampode.robustness.classifier import predict, predict_and_differentiate
from dampode.robustness.draws import ImageDraws

__all__ = ["agrees_with_differences"]

STEP = 1 / 255
"""Step of the differences, the spacing of 8-bit pixels: a gradient that holds over less does not lead an attack."""
DIRECTIONS = 8
LARGEST_ERROR = 0.5
"""Largest share of the squared differences that the gradient may leave unexplained."""


def agrees_with_differences(model: nn.Module, x: Tensor, y: Tensor, draws: ImageDraws, batch_size: int) -> Tensor:
    """Whether each image's gradient explains small changes of the logits.

    Let f be the largest other logit minus the label's, g its gradient, and Δ_k = (f(x + h d_k) − f(x − h d_k)) / 2h
    for 8 random sign vectors d_k and h = 1/255. The image passes if Σ_k (Δ_k − g·d_k)² <= Σ_k Δ_k² / 2.

    Args:
        model: classifier of pixels, in eval mode.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        draws: random numbers of the images.
        batch_size: images per pass.

    Returns:
        Whether each image passes, (N,).

    Raises:
        ValueError: the logits have no gradient with respect to x, or a logit is not finite.

    Source: Athalye et al. 2018, shattered gradients.
    """
    x = x.clamp(STEP, 1 - STEP)  # every point lies in [0, 1]
    other = predict(model, x, batch_size).scatter(1, y[:, None], -torch.inf).argmax(1)
    classes = torch.stack([y, other], 1)
    _, gradient = predict_and_differentiate(model, x, classes, batch_size, difference)
    error, total = x.new_zeros(len(x)), x.new_zeros(len(x))
    for k in range(DIRECTIONS):
        d = draws.stream(k).signs(*x.shape[1:], dtype=x.dtype)
        ahead, behind = (difference(predict(model, x + h * d, batch_size), classes) for h in (STEP, -STEP))
        found = (ahead - behind) / (2 * STEP)
        error, total = error + (found - (gradient * d).flatten(1).sum(1)).square(), total + found.square()
    agrees: Tensor = error <= LARGEST_ERROR * total
    return agrees
