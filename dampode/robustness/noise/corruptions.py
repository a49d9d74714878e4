"""The corruptions of CIFAR-C and ImageNet-C. Four are random noises, drawn anew from clean images."""

import torch
from torch import Tensor

from dampode.robustness.inputs import as_pixels

__all__ = [
    "CORRUPTIONS",
    "EXTRA_CORRUPTIONS",
    "SEVERITIES",
    "corrupt",
    "require_corruption",
    "require_drawn",
    "require_severity",
]

SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500.0, 250.0, 100.0, 75.0, 50.0),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": (0.06, 0.10, 0.12, 0.16, 0.20),
}
"""The constant c of each noise that `corrupt` draws at severities 1 to 5, as in CIFAR-C."""

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 corruptions of which the mean corruption error is made: noise, blur, weather, digital."""
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The 4 further corruptions of the files, one of each kind. They are not part of the mean corruption error."""


def corrupt(x: Tensor, name: str, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Corrupt images as CIFAR-C does: one independent draw per element, clip to [0, 1], truncate to 8 bits.

    - gaussian_noise: x + c n, n ~ N(0, 1)
    - shot_noise: Poisson(c x) / c
    - impulse_noise: a share c of the values becomes 0 or 1, half each
    - speckle_noise: x + c x n, n ~ N(0, 1)

    Args:
        x: pixels in [0, 1], (N, C, H, W).
        name: a key of ``SEVERITIES``.
        severity: 1 to 5.
        generator: source of the draws, on x's device.

    Returns:
        The corrupted pixels, multiples of 1/255 in [0, 1], same shape, dtype and device.

    Raises:
        ValueError: the noise or the severity is unknown, or pixels lie outside [0, 1].
        TypeError: pixels are not float32 or float64.

    Source: Hendrycks & Dietterich 2019, code of CIFAR-10-C; Yang et al. 2020, Sec. 4.2.
    """
    x = as_pixels(x)
    require_drawn(name)
    require_severity(severity)
    c = SEVERITIES[name][severity - 1]
    if name == "shot_noise":
        noisy = torch.poisson(c * x, generator=generator) / c
    elif name == "impulse_noise":
        u = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        noisy = torch.where(u < c / 2, 0.0, torch.where(u < c, 1.0, x))
    else:
        normal = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        noisy = x + c * normal * (x if name == "speckle_noise" else 1.0)
    return (noisy.clamp(0, 1) * 255).floor() / 255


def require_drawn(name: str) -> None:
    """Raise unless the noise is one that `corrupt` draws."""
    if name not in SEVERITIES:
        raise ValueError(
            f"noise must be one of {', '.join(SEVERITIES)}, got {name!r}; other corruptions are read from files only, "
            "with noise=CifarCFiles(...) or ImageNetCFiles(...)"
        )


def require_corruption(name: str) -> None:
    """Raise unless the corruption is one of the 15 + 4 that CIFAR-C and ImageNet-C have."""
    known = CORRUPTIONS + EXTRA_CORRUPTIONS
    if name not in known:
        raise ValueError(f"a corruption must be one of {', '.join(known)}, got {name!r}")


def require_severity(severity: int) -> None:
    """Raise unless the severity is 1, 2, 3, 4 or 5."""
    if isinstance(severity, bool) or not isinstance(severity, int):
        raise TypeError(f"severity must be an int, 1, 2, 3, 4 or 5, got {severity!r} of type {type(severity).__name__}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
