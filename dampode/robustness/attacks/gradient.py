"""Attacks along the gradient of the loss, in steps of a fixed length: FGSM, IFGSM and PGD."""

from typing import Literal

import torch
from torch import Tensor, nn

from dampode._checks import require_positive, require_positive_int
from dampode.robustness.classifier import attacked_in_eval_mode, margins, predict, predict_and_differentiate
from dampode.robustness.draws import Generator, normal, uniform
from dampode.robustness.inputs import require_distance
from dampode.robustness.norms import Norm, into_ball, length, per_image, require_norm, require_radius, steepest

__all__ = ["STEP", "Keep", "fgsm", "ifgsm", "pgd", "recentered_pgd", "require_iteration"]

STEP = 1 / 4
"""The default step α of an iterated attack, in units of ε. A step that is long beside ε jumps between the ball's faces
and makes a network look robust."""

Keep = Literal["strongest", "first", "last"]
"""Which iterate of an attack is returned, see `ifgsm`."""


def fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, norm: Norm = "linf", batch_size: int = 500) -> Tensor:
    """The fast gradient sign method, Eq. 19: x' = clip(x + ε sign(∂L/∂x), 0, 1), L the summed cross entropy.

    In L2 the direction is that of the gradient itself: x' = clip(x + ε g / ‖g‖, 0, 1), g = ∂L/∂x.

    Args:
        model: classifier of pixels. It runs in eval mode; its modes and its parameters' gradients are left as they
            were.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, such as 2/255: in [0, 1], or in L2 at most the distance of two images.
        norm: "linf" or "l2".
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], ‖x' − x‖ <= ε.

    Raises:
        ValueError: ε or a pixel is out of range, labels do not fit the images or the model, or a logit is not finite.
        TypeError: pixels are not float32 or float64, or labels not int64.

    Warns:
        UserWarning: the model is in training mode, or its outputs look like probabilities.

    Source: Yang et al. 2020, Eq. 19; Goodfellow et al. 2015.
    """
    require_norm(norm)
    require_positive_int(batch_size, "batch_size")
    with attacked_in_eval_mode(model, x, y) as x:
        require_radius(eps, norm, x)
        _, gradient = predict_and_differentiate(model, x, y, batch_size)
    return (x + eps * steepest(gradient, norm)).clamp(0, 1)


def ifgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float | None = None,
    steps: int = 20,
    keep: Keep = "strongest",
    batch_size: int = 500,
) -> Tensor:
    """Iterated FGSM, Eq. 20: x_{m+1} = Clip_{x, ε}{x_m + α sign(∂L/∂x_m)}, x_0 = x, also clipped to [0, 1].

    Args:
        model: classifier of pixels. It runs in eval mode; its modes and its parameters' gradients are left as they
            were.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1].
        alpha: step α in pixel units, in (0, 1]; None for ε/4. The paper has 2/255, see `PAPER`.
        steps: number of iterations M.
        keep: the iterate to return for each image. "strongest": the iterate of the largest margin,
            max_{j≠y} z_j − z_y over the logits z. "first": the first misclassified iterate, or the strongest if none
            is misclassified. "last": x_M, as in the paper; with α close to 2ε the iteration can oscillate, and the
            last iterate is then weaker than an earlier one. "first" breaks the same images as "strongest" at a fraction
            of the cost, because an image leaves the batch once it is broken. The default is "strongest", because its
            images also serve further use, such as a transfer to another model.
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, or as in `fgsm`.
        TypeError: as in `fgsm`.

    Source: Yang et al. 2020, Eq. 20; Kurakin et al. 2017.
    """
    require_iteration(alpha, steps, keep, "linf")
    require_positive_int(batch_size, "batch_size")
    with attacked_in_eval_mode(model, x, y) as x:
        require_radius(eps, "linf", x)
        return _iterate(model, x, x, y, eps, _step(alpha, eps), steps, keep, "linf", batch_size)[0]


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float | None = None,
    steps: int = 20,
    restarts: int = 1,
    keep: Keep = "strongest",
    norm: Norm = "linf",
    generator: Generator = None,
    batch_size: int = 500,
) -> Tensor:
    """Projected gradient descent: `ifgsm` from a random start x_0 = clip(x + δ, 0, 1), δ ~ U[−ε, ε] per element.

    The iteration from each start is Eq. 20, in the ball around x. In L2 a step goes along the gradient,
    x + α g / ‖g‖, and is projected onto the ball, then clipped to [0, 1]; a start has a random direction and a
    distance ~ U[0, ε].

    Args:
        model: classifier of pixels. It runs in eval mode; its modes and its parameters' gradients are left as they
            were.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, as in `fgsm`.
        alpha: step α in pixel units, above 0, and in L∞ at most 1; None for ε/4.
        steps: number of iterations.
        restarts: number of random starts. Each image keeps the result of the largest margin.
        keep: the iterate that each start gives, as in `ifgsm`. With "first", a broken image is not started again.
        norm: "linf" or "l2".
        generator: source of the starts, on x's device. The starts are drawn for all images at once, so they do not
            depend on ``batch_size`` or on which images are broken.
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], ‖x' − x‖ <= ε.

    Raises:
        ValueError: a setting is out of range, or as in `fgsm`.
        TypeError: as in `fgsm`.

    Source: Yang et al. 2020, Sec. 4.2; Madry et al. 2018.
    """
    require_iteration(alpha, steps, keep, norm)
    require_positive_int(batch_size, "batch_size")
    require_positive_int(restarts, "restarts")
    with attacked_in_eval_mode(model, x, y) as x:
        require_radius(eps, norm, x)
        step = _step(alpha, eps)
        best, best_margin = x.clone(), x.new_full(x.shape[:1], -torch.inf)
        for number in range(restarts):
            start = (x + _random_offset(x, eps, norm, generator, number)).clamp(0, 1)
            active = (best_margin < 0) if keep == "first" else torch.ones_like(best_margin, dtype=torch.bool)
            if not bool(active.any()):
                break
            found, margin = _iterate(
                model, x[active], start[active], y[active], eps, step, steps, keep, norm, batch_size
            )
            stronger = margin > best_margin[active]
            chosen = active.nonzero().squeeze(1)[stronger]
            best[chosen], best_margin[chosen] = found[stronger], margin[stronger]
    return best


def recentered_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    alpha: float = 1 / 255,
    steps: int = 20,
    generator: Generator = None,
    batch_size: int = 500,
) -> Tensor:
    """The PGD of the paper authors' public code, for comparison with its numbers: |x' − x| <= 2ε.

    The ball is centered on the random start x + δ, which is not clipped. The last iterate is returned. The default α is
    that of the code's last version; the paper says 2/255. To measure robustness within ε, use `pgd`.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε of the random start, and of the ball around it, in pixel units, in [0, 1].
        alpha: step α in pixel units, in (0, 1].
        steps: number of iterations.
        generator: source of the starts, on x's device.
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], up to 2ε from x.

    Raises:
        ValueError, TypeError: as in `pgd`.

    Source: test_pgd.py of the public code of Yang et al. 2020.
    """
    require_iteration(alpha, steps, "last", "linf")
    require_positive_int(batch_size, "batch_size")
    with attacked_in_eval_mode(model, x, y) as x:
        require_radius(eps, "linf", x)
        start = x + _random_offset(x, eps, "linf", generator)
        return _iterate(model, start, start, y, eps, alpha, steps, "last", "linf", batch_size)[0]


def _step(alpha: float | None, eps: float) -> float:
    """The step α: the one given, or the default for the radius."""
    return STEP * eps if alpha is None else alpha


def _random_offset(x: Tensor, eps: float, norm: Norm, generator: Generator, number: int = 0) -> Tensor:
    """A random offset for each image, of length at most ε, in x's shape."""
    if norm == "linf":
        return eps * (2 * uniform(x.shape, x, generator, number) - 1)
    direction = normal(x.shape, x, generator, number)
    distance = eps * uniform(x.shape[:1], x, generator, number)
    return per_image(distance / length(direction, norm), x) * direction


def _iterate(
    model: nn.Module,
    center: Tensor,
    start: Tensor,
    y: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    keep: Keep,
    norm: Norm,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Eq. 20 from a start, in the ball of radius ε around a center: the iterate to keep, and its margin (N,)."""
    kept, kept_margin = start.clone(), start.new_full(start.shape[:1], -torch.inf)
    active = torch.arange(len(start), device=start.device)  # indices of the images still worked on
    current = start
    for remaining in range(steps, -1, -1):
        if remaining:
            logits, gradient = predict_and_differentiate(model, current, y[active], batch_size)
        else:
            logits, gradient = predict(model, current, batch_size), current
        margin = margins(logits, y[active])
        better = (margin > kept_margin[active]) | (keep == "last")
        kept[active[better]], kept_margin[active[better]] = current[better], margin[better]
        if keep == "first":
            unbroken = margin < 0
            active, current, gradient = active[unbroken], current[unbroken], gradient[unbroken]
        if not remaining or not len(active):
            break
        current = into_ball(current + alpha * steepest(gradient, norm), center[active], eps, norm)
    return kept, kept_margin


def require_iteration(alpha: float | None, steps: int, keep: str, norm: Norm) -> None:
    """Raise unless these are valid settings of an iterated attack."""
    require_norm(norm)
    if alpha is not None:
        require_positive(alpha, "alpha")
        if norm == "linf":
            require_distance(alpha, "alpha")
    require_positive_int(steps, "steps")
    if keep not in ("strongest", "first", "last"):
        raise ValueError(f'keep must be "strongest", "first" or "last", got {keep!r}')
