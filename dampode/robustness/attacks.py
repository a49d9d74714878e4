"""Adversarial attacks in L∞ on pixels in [0, 1]."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dampode._checks import require_nonnegative, require_positive, require_positive_int
from dampode.robustness.noise import require_pixels

Keep = Literal["strongest", "last"]


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
    keep: Keep = "strongest",
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
    _require_iteration(alpha, steps, keep)
    return _ascend(model, x, x, y, eps, alpha, steps, keep)[0]


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float = 2 / 255,
    steps: int = 20,
    restarts: int = 1,
    keep: Keep = "strongest",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent: `ifgsm` from a random start x_0 = clip(x + δ, 0, 1), δ ~ U[−ε, ε] elementwise.

    The ball stays centered on x.

    Args:
        model: classifier of pixels, in eval mode; its parameters' gradients are left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε >= 0 in pixel units.
        alpha: step α > 0 in pixel units.
        steps: number of iterations.
        restarts: random starts; of their results each example keeps the one of the largest loss.
        keep: which iterate a start gives, as in `ifgsm`.
        generator: source of the starts, on x's device.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, pixels lie outside [0, 1], or the model is in training mode.

    Source: Yang et al. 2020, Sec. 4.2; Madry et al. 2018.
    """
    _require_attackable(model, x, eps)
    _require_iteration(alpha, steps, keep)
    require_positive_int(restarts, "restarts")
    best, best_loss = x, torch.full(x.shape[:1], -torch.inf, dtype=x.dtype, device=x.device)
    for _ in range(restarts):
        delta = eps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1)
        found, loss = _ascend(model, x, (x + delta).clamp(0, 1), y, eps, alpha, steps, keep)
        best, best_loss = _stronger(found, loss, best, best_loss)
    return best


def _ascend(
    model: nn.Module, x: Tensor, start: Tensor, y: Tensor, eps: float, alpha: float, steps: int, keep: Keep
) -> tuple[Tensor, Tensor]:
    """Eq. 20 from any start: the iterate to keep and its loss, (N,)."""
    lowest, highest = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    loss, gradient = _losses_and_gradient(model, start, y)
    current, best, best_loss = start, start, loss
    for _ in range(steps):
        current = (current + alpha * gradient.sign()).clamp(lowest, highest)
        loss, gradient = _losses_and_gradient(model, current, y)
        best, best_loss = _stronger(current, loss, best, best_loss)
    return (best, best_loss) if keep == "strongest" else (current, loss)


def _stronger(x: Tensor, loss: Tensor, best: Tensor, best_loss: Tensor) -> tuple[Tensor, Tensor]:
    """Of two results, each example's with the larger loss."""
    wins = loss > best_loss
    return torch.where(wins.view(-1, *[1] * (x.ndim - 1)), x, best), torch.where(wins, loss, best_loss)


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


def _require_iteration(alpha: float, steps: int, keep: str) -> None:
    require_positive(alpha, "alpha")
    require_positive_int(steps, "steps")
    if keep not in ("strongest", "last"):
        raise ValueError(f'keep must be "strongest" or "last", got {keep!r}')
