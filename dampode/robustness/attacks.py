"""Adversarial attacks in L∞ on pixels in [0, 1]."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import require_nonnegative, require_positive, require_positive_int
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
    _require_attackable(model, x, eps)
    _, gradient = _losses_and_gradient(model, x, y)
    return (x + eps * gradient.sign()).clamp(0, 1)


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float = 2 / 255,
    steps: int = 20,
    keep: Literal["strongest", "last"] = "strongest",
) -> Tensor:
    """Iterated FGSM, Eq. 20: x_{m+1} = Clip_{x, ε}{x_m + α sign(∂L/∂x_m)}, x_0 = x, also clipped to [0, 1].

    Args:
        model: classifier of pixels, in eval mode; its parameters' gradients are left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε >= 0 in pixel units.
        alpha: step α > 0 in pixel units.
        steps: number of iterations M.
        keep: "strongest" returns each example's iterate of the largest loss, since with α close to 2ε the iteration
            can oscillate; "last" returns x_M, as the paper does.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, pixels lie outside [0, 1], or the model is in training mode.

    Source: Yang et al. 2020, Eq. 20; Kurakin et al. 2017.
    """
    _require_attackable(model, x, eps)
    require_positive(alpha, "alpha")
    require_positive_int(steps, "steps")
    if keep not in ("strongest", "last"):
        raise ValueError(f'keep must be "strongest" or "last", got {keep!r}')
    lowest, highest = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    best_loss, gradient = _losses_and_gradient(model, x, y)
    best, current = x, x
    for _ in range(steps):
        current = (current + alpha * gradient.sign()).clamp(lowest, highest)
        loss, gradient = _losses_and_gradient(model, current, y)
        stronger = loss > best_loss
        best = torch.where(stronger.view(-1, *[1] * (x.ndim - 1)), current, best)
        best_loss = torch.where(stronger, loss, best_loss)
    return best if keep == "strongest" else current


def _losses_and_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of each example, (N,), and the gradient of their sum with respect to x."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        losses = F.cross_entropy(model(leaf), y, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient


def _require_attackable(model: nn.Module, x: Tensor, eps: float) -> None:
    require_nonnegative(eps, "eps")
    require_pixels(x)
    if model.training:
        raise ValueError("an attack needs the model in eval mode, got training mode; call model.eval()")
