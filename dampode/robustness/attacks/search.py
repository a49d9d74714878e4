"""Perturbations in L∞ that use no gradient: uniform noise, and a random search over squares."""

import torch
from torch import Tensor, nn

from dampode._checks import require_positive_int
from dampode.robustness.classifier import attacked_in_eval_mode, margins, predict
from dampode.robustness.draws import Generator, ImageDraws, uniform
from dampode.robustness.inputs import as_pixels, require_attack_arguments, require_distance

__all__ = ["square", "uniform_noise"]

FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""The share is halved each time one of these parts of the queries is used up, as in Andriushchenko et al."""


def uniform_noise(x: Tensor, eps: float, generator: Generator = None) -> Tensor:
    """Uniform noise, x' = clip(x + δ, 0, 1), δ ~ U[−ε, ε] per element: a baseline that every attack must beat.

    Args:
        x: pixels in [0, 1], (N, *S).
        eps: radius ε in pixel units, in [0, 1].
        generator: source of the draws, on x's device.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: ε or a pixel lies outside [0, 1].
        TypeError: pixels are not float32 or float64.
    """
    require_distance(eps, "eps")
    x = as_pixels(x)
    delta = 2 * uniform(x.shape, x, generator) - 1
    return (x + eps * delta).clamp(0, 1)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 200,
    generator: Generator = None,
    batch_size: int = 500,
) -> Tensor:
    """Random search over squares: a square of random position and color x ± ε is kept if the margin grows.

    The search starts from vertical stripes of x ± ε, and the squares shrink as queries are used up. It uses logits
    only, so hidden gradients do not stop it. A broken image is not changed any further.

    Args:
        model: classifier of pixels. It runs in eval mode, and its modes are restored.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1].
        queries: forward passes per image.
        generator: source of the draws, on x's device. The draws do not depend on ``batch_size``.
        batch_size: images per forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, x is not (N, C, H, W), or as in `fgsm`.
        TypeError: pixels are not float32 or float64, or labels not int64.

    Source: Andriushchenko et al. 2020, Square Attack, its L∞ form.
    """
    require_attack_arguments(eps, batch_size)
    require_positive_int(queries, "queries")
    with attacked_in_eval_mode(model, x, y) as x:
        if x.ndim != 4:
            raise ValueError(f"square needs images (N, C, H, W), got shape {tuple(x.shape)}")
        return _search(model, x, y, eps, queries, generator, batch_size)


def _search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    queries: int,
    generator: Generator,
    batch_size: int,
) -> Tensor:
    """The search of `square`, on checked arguments."""
    n, channels, height, width = x.shape

    draws = ImageDraws.of(n, generator, x.device)

    def colors(stream: ImageDraws, *shape: int) -> Tensor:
        return eps * stream.signs(*shape, dtype=x.dtype)

    def spans(stream: ImageDraws, size: int, side: int) -> Tensor:  # (n, size): where a square lies along one axis
        first = stream.integers(size - side + 1, 1)
        index = torch.arange(size, device=x.device)
        return (index >= first) & (index < first + side)

    found = (x + colors(draws, channels, 1, width)).clamp(0, 1)
    found_margin = margins(predict(model, found, batch_size), y)
    for query in range(1, queries):
        share = FIRST_SHARE / 2 ** sum(query > h * queries for h in HALVINGS)
        side = max(1, round((share * height * width) ** 0.5))
        stream = draws.stream(query)
        rows, columns = (
            spans(stream.stream(0), height, min(side, height)),
            spans(stream.stream(1), width, min(side, width)),
        )
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (n, 1, H, W)
        color = colors(stream.stream(2), channels, 1, 1)
        active = (found_margin < 0).nonzero().squeeze(1)  # indices of the images still worked on
        if not len(active):
            break
        trial = torch.where(inside[active], (x[active] + color[active]).clamp(0, 1), found[active])
        margin = margins(predict(model, trial, batch_size), y[active])
        better = margin > found_margin[active]
        found[active[better]], found_margin[active[better]] = trial[better], margin[better]
    return found
