"""Perturbations in L∞ that follow no gradient of the attacked model: uniform noise and a random search over squares."""

import torch
from torch import Tensor, nn

from dampode._checks import require_positive_int
from dampode.robustness.classifier import attackable, margins, predict
from dampode.robustness.noise.corruptions import require_length, require_pixels

FIRST_SHARE = 0.8
"""Share of the image that the first squares cover."""
HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which that share is halved, as Andriushchenko et al. have them."""


def uniform_noise(x: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise, x' = clip(x + δ, 0, 1), δ ~ U[−ε, ε] elementwise: what any attack must be stronger than.

    Args:
        x: pixels in [0, 1], (N, *S).
        eps: radius ε in pixel units, in [0, 1].
        generator: source of the draws, on x's device.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: ε or pixels lie outside [0, 1].
        TypeError: pixels are not float32 or float64.
    """
    require_length(eps, "eps")
    require_pixels(x)
    delta = 2 * torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device) - 1
    return (x + eps * delta).clamp(0, 1)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 200,
    generator: torch.Generator | None = None,
    batch_size: int = 500,
) -> Tensor:
    """Random search over squares: a square of random place and color x ± ε is kept where the margin grows.

    It starts from vertical stripes of x ± ε; squares shrink as queries are used up. It sees logits only, so a model
    that hides its gradients does not hide from it. An example that is broken is left as it is.

    Args:
        model: classifier of pixels; in eval mode for the call.
        x: pixels in [0, 1], (N, C, H, W).
        y: labels, (N,).
        eps: radius ε in pixel units, in [0, 1].
        queries: forward passes an image.
        generator: source of the draws, on x's device; they do not depend on ``batch_size``.
        batch_size: images a forward pass.

    Returns:
        The perturbed pixels in [0, 1], |x' − x| <= ε.

    Raises:
        ValueError: a setting is out of range, x is not (N, C, H, W), or as in `fgsm`.
        TypeError: pixels are not float32 or float64, or labels not int64.

    Source: Andriushchenko et al. 2020, Square Attack, its L∞ form.
    """
    require_length(eps, "eps")
    require_positive_int(queries, "queries")
    require_positive_int(batch_size, "batch_size")
    with attackable(model, x, y):
        if x.ndim != 4:
            raise ValueError(f"squares need images (N, C, H, W), got shape {tuple(x.shape)}")
        return _search(model, x, y, eps, queries, generator, batch_size)


def _search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    queries: int,
    generator: torch.Generator | None,
    batch_size: int,
) -> Tensor:
    """The search of `square`, its arguments checked."""
    n, channels, height, width = x.shape

    def colors(*shape: int) -> Tensor:
        return eps * (2 * torch.randint(0, 2, shape, generator=generator, device=x.device).to(x.dtype) - 1)

    def places(size: int, side: int) -> Tensor:  # (n, size): the span of a square along one axis
        first = torch.randint(0, size - side + 1, (n, 1), generator=generator, device=x.device)
        index = torch.arange(size, device=x.device)
        return (index >= first) & (index < first + side)

    found = (x + colors(n, channels, 1, width)).clamp(0, 1)
    strength = margins(predict(model, found, batch_size), y)
    for query in range(1, queries):
        share = FIRST_SHARE / 2 ** sum(query > h * queries for h in HALVINGS)
        side = max(1, round((share * height * width) ** 0.5))
        rows, columns = places(height, min(side, height)), places(width, min(side, width))
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (n, 1, H, W)
        color = colors(n, channels, 1, 1)
        going = (strength < 0).nonzero().squeeze(1)
        if not len(going):
            break
        trial = torch.where(inside[going], (x[going] + color[going]).clamp(0, 1), found[going])
        reached = margins(predict(model, trial, batch_size), y[going])
        better = reached > strength[going]
        found[going[better]], strength[going[better]] = trial[better], reached[better]
    return found
