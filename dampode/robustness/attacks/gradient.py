"""Adversarial attacks in L∞ along the gradient, on pixels in [0, 1]."""

from typing import Literal

import torch
from torch import Tensor, nn

from dampode._checks import require_positive, require_positive_int
from dampode.robustness.classifier import attackable, margins, predict, predict_and_differentiate
from dampode.robustness.noise.corruptions import require_length

Keep = Literal["strongest", "first", "last"]
"""Which iterate of an attack an example keeps, see `ifgsm`."""


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, batch_size: int = 500) -> Tensor:
    """The fast gradient sign method, Eq. 19: x' = clip(x + ε sign(∂L/∂x), 0, 1), L the summed cross entropy.

    Args:
        model: classifier of pixels; in eval mode for the call, its parameters' gradients left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1], such as 2/255.
        batch_size: images a forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: ε or pixels lie outside [0, 1], labels do not fit, or a logit is not finite.
        TypeError: pixels are not float32 or float64, or labels not int64.

    Warns:
        UserWarning: the model is in training mode, or gives probabilities.

    Source: Yang et al. 2020, Eq. 19; Goodfellow et al. 2015.
    """
    require_length(eps, "eps")
    require_positive_int(batch_size, "batch_size")
    with attackable(model, x, y):
        _, gradient = predict_and_differentiate(model, x, y, batch_size)
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
    batch_size: int = 500,
) -> Tensor:
    """Iterated FGSM, Eq. 20: x_{m+1} = Clip_{x, ε}{x_m + α sign(∂L/∂x_m)}, x_0 = x, also clipped to [0, 1].

    Args:
        model: classifier of pixels; in eval mode for the call, its parameters' gradients left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1].
        alpha: step α in pixel units, in (0, 1].
        steps: number of iterations M.
        keep: "strongest" returns each example's iterate of the largest margin, max_{j≠y} z_j − z_y over logits z,
            since with α close to 2ε the iteration can oscillate. "first" returns its first misclassified iterate, and
            the strongest where there is none: the same examples are broken at a fraction of the cost, for a broken
            one leaves the batch. "last" returns x_M, as the paper does.
        batch_size: images a forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, or as in `fgsm`.
        TypeError: as in `fgsm`.

    Source: Yang et al. 2020, Eq. 20; Kurakin et al. 2017.
    """
    require_length(eps, "eps")
    require_iteration(alpha, steps, keep)
    require_positive_int(batch_size, "batch_size")
    with attackable(model, x, y):
        return _ascend(model, x, x, y, eps, alpha, steps, keep, batch_size)[0]


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
    batch_size: int = 500,
) -> Tensor:
    """Projected gradient descent: `ifgsm` from a random start x_0 = clip(x + δ, 0, 1), δ ~ U[−ε, ε] elementwise.

    Each start is followed by Eq. 20; the ball stays centered on x.

    Args:
        model: classifier of pixels; in eval mode for the call, its parameters' gradients left alone.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1].
        alpha: step α in pixel units, in (0, 1].
        steps: number of iterations.
        restarts: random starts; of their results each example keeps the one of the largest margin.
        keep: which iterate a start gives, as in `ifgsm`; with "first", a broken example starts no more.
        generator: source of the starts, on x's device. They are drawn for all images at once, so that they do not
            depend on ``batch_size`` or on what breaks.
        batch_size: images a forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, or as in `fgsm`.
        TypeError: as in `fgsm`.

    Source: Yang et al. 2020, Sec. 4.2; Madry et al. 2018.
    """
    require_length(eps, "eps")
    require_iteration(alpha, steps, keep)
    require_positive_int(batch_size, "batch_size")
    require_positive_int(restarts, "restarts")
    with attackable(model, x, y):
        best, strength = x.clone(), x.new_full(x.shape[:1], -torch.inf)
        for _ in range(restarts):
            start = (x + _uniform(x, eps, generator)).clamp(0, 1)
            going = (strength < 0) if keep == "first" else torch.ones_like(strength, dtype=torch.bool)
            if not bool(going.any()):
                break
            found, reached = _ascend(model, x[going], start[going], y[going], eps, alpha, steps, keep, batch_size)
            stronger = reached > strength[going]
            chosen = going.nonzero().squeeze(1)[stronger]
            best[chosen], strength[chosen] = found[stronger], reached[stronger]
    return best


def recentered_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float = 1 / 255,
    steps: int = 20,
    generator: torch.Generator | None = None,
    batch_size: int = 500,
) -> Tensor:
    """The PGD of the paper authors' public code, for comparison with numbers obtained by it: |x' − x| <= 2ε.

    Its ball is centered on the random start x + δ, which is not clipped, and its last iterate is kept. α is that of
    the code's last version; the paper says 2/255. For a robustness figure take `pgd`.

    Args:
        model: classifier of pixels; in eval mode for the call.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε, in [0, 1], of the start, and of the ball around it.
        alpha: step α in pixel units, in (0, 1].
        steps: number of iterations.
        generator: source of the starts, on x's device.
        batch_size: images a forward pass.

    Returns:
        The perturbed pixels in [0, 1], up to 2ε from x.

    Raises:
        ValueError, TypeError: as in `pgd`.

    Source: test_pgd.py of the public code of Yang et al. 2020.
    """
    require_length(eps, "eps")
    require_iteration(alpha, steps, "last")
    require_positive_int(batch_size, "batch_size")
    with attackable(model, x, y):
        start = x + _uniform(x, eps, generator)
        return _ascend(model, start, start, y, eps, alpha, steps, "last", batch_size)[0]


def _uniform(x: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Draws from U[−ε, ε], one an element of x."""
    return eps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1)


def _ascend(
    model: nn.Module,
    center: Tensor,
    start: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    keep: Keep,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Eq. 20 in the ball around a center, from any start: the iterate to keep and its margin, (N,)."""
    lowest, highest = (center - eps).clamp(0, 1), (center + eps).clamp(0, 1)
    kept, strength = start.clone(), start.new_full(start.shape[:1], -torch.inf)
    going = torch.arange(len(start), device=start.device)  # the examples still worked on
    current = start
    for left in range(steps, -1, -1):
        if left:
            logits, gradient = predict_and_differentiate(model, current, y[going], batch_size)
        else:
            logits, gradient = predict(model, current, batch_size), current
        margin = margins(logits, y[going])
        better = (margin > strength[going]) | (keep == "last")
        kept[going[better]], strength[going[better]] = current[better], margin[better]
        if keep == "first":
            sound = margin < 0
            going, current, gradient = going[sound], current[sound], gradient[sound]
        if not left or not len(going):
            break
        current = (current + alpha * gradient.sign()).clamp(lowest[going], highest[going])
    return kept, strength


def require_iteration(alpha: float, steps: int, keep: str) -> None:
    """Raise unless these can be the settings of an iterated attack."""
    require_positive(alpha, "alpha")
    require_length(alpha, "alpha")
    require_positive_int(steps, "steps")
    if keep not in ("strongest", "first", "last"):
        raise ValueError(f'keep must be "strongest", "first" or "last", got {keep!r}')
