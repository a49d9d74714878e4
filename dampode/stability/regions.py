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

MARGIN = 1e-11
"""How far |R| may lie above 1 and count as 1: rounding of the steps."""
FIRST_STEP = 1e-6
"""The shortest step that `largest_stable_step` tries."""


def stability_function(integrator: Integrator, z: float | Tensor, mu: complex | Tensor) -> Tensor:
    """R(z, μ): the factor by which one call multiplies x on x' = −λx + λμx, with z = hλ.

    The integrator is run, in float64, on the real 2x2 form of the complex equation, with λ = z, ρ f = zμx over [0, 1].
    The exact factor is e^{z(μ − 1)}. An adaptive integrator gives that to its tolerance, one that shares a step over
    the batch with all points at once; a fixed step gives its own rational or exponential function.

    Args:
        integrator: any; a `FixedStep` with ``steps=1`` for one step.
        z: hλ >= 0, a number or a real tensor.
        mu: μ, a complex number or a tensor that broadcasts with z.

    Returns:
        R, complex128, the broadcast shape of z and mu; detached and on the CPU.

    Raises:
        ValueError: a z is negative or not finite, or z and mu do not broadcast.
        TypeError: integrator is no `Integrator`.

    Source: Cox & Matthews 2002, Sec. 4 (stability of exponential integrators on a linear part and a linearized rest).
    """
    lam = torch.as_tensor(z, dtype=torch.float64, device="cpu")
    nu = torch.as_tensor(mu, dtype=torch.complex128, device="cpu")
    lam, nu = torch.broadcast_tensors(lam, nu)
    return _amplification(integrator, lam, lam * nu)


@dataclass(frozen=True)
class StabilityRegion:
    """|R| over the plane of w = h ρ ν, at one z = hλ: where a damped network's layer keeps perturbations bounded.

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
        integrator: any; a `FixedStep` with ``steps=1`` for one step.
        z: hλ >= 0.
        re: bounds of the real axis, increasing.
        im: bounds of the imaginary axis, increasing.
        points: grid points an axis.

    Raises:
        ValueError: z is negative, an axis is not finite or does not increase, or points is below 1.
        TypeError: integrator is no `Integrator`.
    """
    require_nonnegative(z, "z")
    require_positive_int(points, "points")
    for name, (low, high) in (("re", re), ("im", im)):
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"{name} must be finite and increase, got ({low:g}, {high:g})")
    reals, imags = (torch.linspace(*bounds, points, dtype=torch.float64) for bounds in (re, im))
    w = torch.complex(reals.expand(points, -1), imags[:, None].expand(-1, points))
    return StabilityRegion(float(z), reals, imags, _amplification(integrator, torch.full_like(w.real, z), w))


def largest_stable_step(
    integrator: Integrator, nu: complex | Tensor, lam: float, rho: Weighting = unit, h_max: float = 1e3
) -> float:
    """The largest h up to which one call over [0, h] keeps |R| <= 1 for every eigenvalue ν of ∂f/∂x.

    Steps are tried from 1e-6 upwards, 5 % apart, and the first that fails is refined by bisection; |R| up to 1 + 1e-11
    counts as 1. Of a ν with Re ρν = λ, where the equation keeps |x|, |R| is followed from h = 0 on to where it leaves
    1: a method that leaves it upwards, as 1 + h⁴/8, is unstable at every h.

    Args:
        integrator: any; for an adaptive one, which chooses its own steps, the answer says little.
        nu: eigenvalues ν of ∂f/∂x, a number or a tensor.
        lam: damping λ >= 0.
        rho: the weight function.
        h_max: where to stop looking, above 1e-6.

    Returns:
        h; inf where every h up to h_max is stable; 0 where none is, or the equation itself is unstable.

    Raises:
        ValueError: λ is negative, h_max too small, or nu empty or not finite.
        TypeError: integrator is no `Integrator`.
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
    """Whether |R| > 1 at every small h for a w on the axis Re w = λ, but for rounding."""
    scale = w.abs() + lam
    axis = ((w.real - lam).abs() <= 1e-12 * scale) & (scale > 0)
    if not bool(axis.any()):
        return False
    w, scale = w[axis], scale[axis]
    h = torch.logspace(-6, 0, 61, dtype=torch.float64)[:, None] / scale
    excess = _amplification(integrator, h * lam, h * w).abs() - 1
    first = (excess.abs() > MARGIN).int().argmax(dim=0, keepdim=True)  # where |R| leaves 1; 0 where it never does
    return bool((excess.gather(0, first) > MARGIN).any())


def _amplification(integrator: Integrator, lam: Tensor, w: Tensor) -> Tensor:
    """The factor of one call over [0, 1] on x' = −λx + wx, λ real and w complex, as a real system in the plane."""
    require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
    flat = w.reshape(-1)
    rows = torch.stack([flat.real, -flat.imag, flat.imag, flat.real], dim=1).view(-1, 2, 2)  # (N, 2, 2)
    func = DampedODEFunc(lambda x: (rows @ x[..., None])[..., 0], Constant(lam.reshape(-1, 1)))
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(len(flat), 1)
    end = integrator(func, start, 0.0, 1.0).detach()
    return torch.complex(end[:, 0].contiguous(), end[:, 1].contiguous()).view(w.shape)
