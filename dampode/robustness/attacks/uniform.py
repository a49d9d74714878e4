"""Uniform noise in the ball: a perturbation that uses nothing of the model."""

from torch import Tensor

from dampode.robustness.draws import Generator, uniform
from dampode.robustness.inputs import as_pixels, require_distance

__all__ = ["uniform_noise"]


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
