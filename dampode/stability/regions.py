"""Linear stability of integrators, found by running them: amplification, regions, the largest stable step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dampode._checks import require_instance, require_nonnegative, require_positive, require_positive_int
from dampode.damping import Constant
from dampode.dynamics import DampedODEFunc
from dampode.integrators import Integrator
from dampode.weighting import Weighting, unit, weight_at

__all__ = ["StabilityRegion", "largest_stable_step", "stability_function", "stability_region"]

MARGIN = 1e-11
"""|R| up to 1 + MARGIN counts as 1, because the steps round."""
FIRST_STEP = 1e-6
"""The shortest step that `largest_stable_step` tries."""


def stability_function(integrator: Integrator, z: float | Tensor, mu: complex | Tensor) -> Tensor:
    """R(z, μ): the factor by which one call of the integrator multiplies x on x' = −λx + λμx, with z = hλ.

    The integrator runs in float64 on the real 2x2 form of the complex equation, with λ = z and ρ f = zμx over [0, 1].
    The exact factor is e^{z(μ − 1)}. An adaptive integrator gives it up to its tolerance; if it shares its steps over
    the batch, all points share them. A fixed step gives its own rational or exponential function.

    Args:
        integrator: any integrator; a `FixedStep` with ``steps=1`` for one step.
        z: hλ >= 0, a number or a real tensor.
        mu: μ, a complex number or a tensor that broadcasts with z.

    Returns:
        R, complex128, in the broadcast shape of z and mu; detached and on the CPU.

    Raises:
        ValueError: a z is negative or not finite, or z and mu do not broadcast.
        TypeError: integrator is not an `Integrator`.

    Source: Cox & Matthews 2002, Sec. 4 (stability of exponential integrators on a linear part and a linearized rest).
    """
    lam = torch.as_tensor(z, dtype=torch.float64, device="cpu")
    nu = torch.as_tensor(mu, dtype=torch.complex128, device="cpu")
    lam, nu = torch.broadcast_tensors(lam, nu)
    return _amplification(integrator, lam, lam * nu)


@dataclass(frozen=True)
class StabilityRegion:
    """R over the plane of w = h ρ ν at one z = hλ. Where |R| <= 1, a damped layer keeps perturbations bounded.

    Args:
        z: hλ.
        re, im: the axes of w, (R,) and (I,).
        amplification: R(z, w / z), complex (I, R).
    """

    z: float
    re: Tensor
    im: Tensor
    amplification: Tensor

    @property
    def stable(self) -> Tensor:
        """Where |R| <= 1, (I, R)."""
        return self.amplification.abs() <= 1 + MARGIN


def stability_region(
    integrator: Integrator,
    z: float,
    re: tuple[float, float] = (-4.0, 2.0),
    im: tuple[float, float] = (-3.0, 3.0),
    points: int = 121,
) -> StabilityRegion:
    """The amplification over a grid of w = h ρ ν at z = hλ; z = 0 is the classical stability region.

    Args:
        integrator: any integrator; a `FixedStep` with ``steps=1`` for one step.
        z: hλ >= 0.
        re: bounds of the real axis, increasing.
        im: bounds of the imaginary axis, increasing.
        points: number of grid points per axis.

    Raises:
        ValueError: z is negative, an axis is not finite or does not increase, or points is below 1.
        TypeError: integrator is not an `Integrator`.
    """
    require_nonnegative(z, "z")
    require_positive_int(points, "points")
    for name, (low, high) in (("re", re), ("im", im)):
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"{name} must be finite and increase, got ({low:g}, {high:g})")
    reals, imags = (torch.linspace(*bounds, points, dtype=torch.float64, device="cpu") for bounds in (re, im))
    w = torch.complex(reals.expand(points, -1), imags[:, None].expand(-1, points))
    return StabilityRegion(float(z), reals, imags, _amplification(integrator, torch.full_like(w.real, z), w))


def largest_stable_step(
    integrator: Integrator, nu: complex | Tensor, lam: float, rho: Weighting = unit, h_max: float = 1e3
) -> float:
    """The largest h up to which one call over [0, h] keeps |R| <= 1 for every eigenvalue ν of ∂f/∂x.

    The search tries steps from 1e-6 upwards, 5 % apart, and refines the first that fails by bisection. |R| up to
    1 + 1e-11 counts as 1. If Re ρν = λ, the equation keeps |x|. The search then follows |R| from h = 0 until it leaves
    1: a method for which |R| rises, for instance as 1 + h⁴/8, is unstable at every h.

    Args:
        integrator: any integrator. For an adaptive one the result means little, because it chooses its own steps.
        nu: eigenvalues ν of ∂f/∂x, a number or a tensor.
        lam: damping λ >= 0.
        rho: the weight function.
        h_max: the largest h that is tried, above 1e-6.

    Returns:
        h; inf if every h up to h_max is stable; 0 if no h is stable or the equation itself is unstable.

    Raises:
        ValueError: λ is negative, h_max too small, or nu empty or not finite.
        TypeError: integrator is not an `Integrator`.
    """
    require_nonnegative(lam, "λ")
    require_positive(h_max, "h_max")
    if h_max <= FIRST_STEP:
        raise ValueError(f"h_max must be above {FIRST_STEP:g}, the first step that is tried, got {h_max}")
    w = weight_at(rho, lam) * torch.as_tensor(nu, dtype=torch.complex128, device="cpu").flatten()
    if len(w) == 0 or not bool(torch.isfinite(w).all()):
        raise ValueError(f"nu must be finite and not empty, got {len(w)} eigenvalues, some of them NaN or infinite")
    if bool((w.real > lam).any()) or _grows_from_the_start(integrator, w, lam):
        return 0.0

    def stable(h: float) -> bool:
        moduli = _amplification(integrator, torch.full_like(w.real, h * lam), h * w).abs()
        return bool((moduli <= 1 + MARGIN).all())

    good = 0.0
    for n in range(math.ceil(math.log(h_max / FIRST_STEP) / math.log(1.05)) + 1):
        h = min(FIRST_STEP * 1.05**n, h_max)
        if not stable(h):
            bad = h
            break
        good = h
    else:
        return math.inf
    for _ in range(50):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if stable(middle) else (good, middle)
    return good


def _grows_from_the_start(integrator: Integrator, w: Tensor, lam: float) -> bool:
    """Whether |R| > 1, beyond rounding, at every small h for a w on the axis Re w = λ."""
    scale = w.abs() + lam
    axis = ((w.real - lam).abs() <= 1e-12 * scale) & (scale > 0)
    if not bool(axis.any()):
        return False
    w, scale = w[axis], scale[axis]
    h = torch.logspace(-6, 0, 61, dtype=torch.float64, device="cpu")[:, None] / scale
    excess = _amplification(integrator, h * lam, h * w).abs() - 1
    # the index at which |R| leaves 1; 0 if it never does
    first = (excess.abs() > MARGIN).int().argmax(dim=0, keepdim=True)
    return bool((excess.gather(0, first) > MARGIN).any())


def _amplification(integrator: Integrator, lam: Tensor, w: Tensor) -> Tensor:
    """The factor of one call over [0, 1] on x' = −λx + wx, λ real and w complex, as a real system in the plane."""
    require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
    flat = w.reshape(-1)
    rows = torch.stack([flat.real, -flat.imag, flat.imag, flat.real], dim=1).view(-1, 2, 2)  # (N, 2, 2)
    func = DampedODEFunc(lambda x: (rows @ x[..., None])[..., 0], Constant(lam.reshape(-1, 1)))
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64, device="cpu").repeat(len(flat), 1)
    end = integrator(func, start, 0.0, 1.0).detach()
    return torch.complex(end[:, 0].contiguous(), end[:, 1].contiguous()).view(w.shape)
