"""The two norms in which an attack is bounded, L∞ and L2: length, projection onto the ball, steepest direction."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from dampode._checks import require_nonnegative

__all__ = [
    "Norm",
    "dual_length",
    "into_ball",
    "length",
    "per_image",
    "require_norm",
    "require_radius",
    "steepest",
]

Norm = Literal["linf", "l2"]
"""How far an image may be moved: "linf" bounds the change of each pixel, "l2" the Euclidean length of all changes."""


def length(delta: Tensor, norm: Norm) -> Tensor:
    """‖δ‖ of each image, (N,), for changes δ of shape (N, *S)."""
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def dual_length(w: Tensor, norm: Norm) -> Tensor:
    """The dual norm of each image's gradient, (N,): L1 for L∞, and L2 for L2. w·δ <= ‖w‖_dual ‖δ‖."""
    flat = w.flatten(1)
    return flat.abs().sum(1) if norm == "linf" else flat.norm(dim=1)


def into_ball(x: Tensor, center: Tensor, eps: float, norm: Norm) -> Tensor:
    """Points projected onto the ball of radius ε around the center, then clipped to [0, 1].

    In L∞ this is the projection onto the intersection. In L2 the clipped point lies in both sets, since the center is
    in [0, 1]; it is not the nearest such point.
    """
    if norm == "linf":
        return x.clamp((center - eps).clamp(0, 1), (center + eps).clamp(0, 1))
    delta = x - center
    scale = (eps / length(delta, norm).clamp(min=1e-12)).clamp(max=1)
    return (center + per_image(scale, delta) * delta).clamp(0, 1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of length 1 in which a linear function of this gradient grows fastest; 0 where the gradient is 0.

    L∞: sign g. L2: g / ‖g‖.
    """
    if norm == "linf":
        return gradient.sign()
    scale = gradient.flatten(1).abs().amax(1)  # divided out first: the square of a small gradient would be 0
    scaled = gradient / per_image(torch.where(scale > 0, scale, 1), gradient)
    return scaled / per_image(length(scaled, norm).clamp(min=1e-12), scaled)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) as (N, 1, ..., 1), to broadcast over images (N, *S)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def require_norm(norm: str) -> None:
    """Raise unless this is a norm."""
    if norm not in get_args(Norm):
        raise ValueError(f'norm must be "linf" or "l2", got {norm!r}')


def require_radius(eps: float, norm: Norm, x: Tensor) -> None:
    """Raise unless ε is between 0 and the largest distance between two images like those of x, (N, *S)."""
    require_nonnegative(eps, "eps")
    if norm == "linf" and eps > 1:
        raise ValueError(
            f"eps must be at most 1, for pixels lie in [0, 1], got {eps}; divide 8-bit units by 255. A radius of L2 "
            'may be larger: norm="l2"'
        )
    diagonal = math.sqrt(x[0].numel())
    if norm == "l2" and eps > diagonal:
        raise ValueError(
            f"eps must be at most {diagonal:.4g} in L2, the largest distance of two images of {x[0].numel()} values in "
            f"[0, 1], got {eps}; divide 8-bit units by 255"
        )
