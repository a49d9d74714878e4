"""Adversarial attacks in L∞ on pixels in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import require_nonnegative
from dampode.robustness.noise import require_pixels


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """The fast gradient sign method, Eq. 19: x' = clip(x + ε sign(∂L/∂x), 0, 1), L the summed cross entropy.

    Args:
        model: classifier of pixels, in eval mode; its parameters' gradients are left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε >= 0 in pixel units, such as 2/255.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: ε is negative, pixels lie outside [0, 1], or the model is in training mode.

    Source: Yang et al. 2020, Eq. 19; Goodfellow et al. 2015.
    """
    require_nonnegative(eps, "eps")
    require_pixels(x)
    if model.training:
        raise ValueError("an attack needs the model in eval mode, got training mode; call model.eval()")
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = F.cross_entropy(model(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return (x + eps * gradient.sign()).clamp(0, 1)
