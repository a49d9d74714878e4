"""The equations of the damped ODE as pure tensor functions: Eqs. 4, 8, 12, 14, and the φ functions behind them."""

import math

import torch
from torch import Tensor

__all__ = ["Scalar", "damped_rhs", "exponential_step", "linearized_step", "phi", "phis"]

Scalar = float | Tensor
"""A number or a tensor that broadcasts to the state."""


def phi(k: int, z: Tensor) -> Tensor:
    """The function φ_k of exponential integrators, elementwise: φ_0(z) = e^z, φ_k(z) = Σ_n z^n / (n + k)!.

    Equivalently φ_{k+1}(z) = (φ_k(z) − 1/k!) / z, with φ_k(0) = 1/k!. Values, first and second derivatives are
    accurate for every real z, 0 included, and for complex z with Re z <= 0. The series is used for |z| < 1 and the
    recurrence elsewhere. Each of the two gets a safe argument where it is not used, so that automatic differentiation
    never meets 0/0. float16 and bfloat16
    are computed in float32.

    Args:
        k: index, 0 to 3.
        z: floating or complex tensor of any shape.

    Returns:
        φ_k(z), shape and dtype of z.

    Raises:
        ValueError: k is not 0, 1, 2 or 3.
        TypeError: z is neither a floating nor a complex tensor.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k not in (0, 1, 2, 3):
        raise ValueError(f"phi is defined for k = 0, 1, 2, 3, got {k!r}")
    _require_floating(z)
    return _phis(z, k)[k]


def phis(z: Tensor, last: int = 3) -> tuple[Tensor, ...]:
    """φ_0(z), ..., φ_last(z) from one evaluation, for the steps of higher-order methods.

    Args:
        z: floating or complex tensor of any shape.
        last: largest index, 3 or 4.

    Returns:
        The functions, each of z's shape and dtype, as accurate as `phi`.

    Raises:
        ValueError: last is neither 3 nor 4.
        TypeError: z is neither a floating nor a complex tensor.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 2010, Sec. 2.
    """
    if last not in (3, 4):
        raise ValueError(f"phis is defined for last = 3 and 4, got {last!r}")
    _require_floating(z)
    return _phis(z, last)


def _require_floating(z: Tensor) -> None:
    if not isinstance(z, Tensor) or not (z.is_floating_point() or z.is_complex()):
        got = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"z must be a floating tensor, got {got}; complex tensors are allowed, too")


def _phis(z: Tensor, last: int) -> tuple[Tensor, ...]:
    """φ_0 .. φ_last."""
    w = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    values = [torch.exp(w)]
    if last > 0:
        near = w.abs() < 1
        small, large = torch.where(near, w, 0.0), torch.where(near, 1.0, w)
        top = max(last, 3)
        series = [_series(small, top)]
        for k in range(top - 1, 0, -1):
            series.append(1 / math.factorial(k) + small * series[-1])
        recurrence = torch.expm1(large) / large
        for k in range(1, last + 1):
            values.append(torch.where(near, series[top - k], recurrence))
            if k < last:
                recurrence = (recurrence - 1 / math.factorial(k)) / large
    return tuple(values) if w is z else tuple(v.to(z.dtype) for v in values)


def _series(s: Tensor, k: int) -> Tensor:
    """φ_k(s), k >= 3, as Σ_{n<16} s^n / (n + k)! for |s| <= 1, to 1e-16: Estrin's scheme on monic pairs.

    This takes 19 operations; Horner's scheme takes 30.
    """
    first = k + 1
    terms, power = [s + (n + first) for n in range(0, 16, 2)], s * s  # pair n is (n+k+1)! times c_n + c_{n+1} s
    width = 2
    while len(terms) > 1:
        ratio = [math.factorial(first + width * n) / math.factorial(first + width * (n + 1)) for n in range(len(terms))]
        terms = [torch.addcmul(terms[n], terms[n + 1], power, value=ratio[n]) for n in range(0, len(terms), 2)]
        width *= 2
        if len(terms) > 1:
            power = power * power
    return terms[0] / math.factorial(first)


def damped_rhs(x: Tensor, lam: Scalar, weight: Scalar, fx: Tensor) -> Tensor:
    """The damped vector field, Eq. 4: dx/dt = −λ x + ρ(λ) f(x, t).

    Args:
        x: state, (N, *S).
        lam: damping λ >= 0, broadcast to x.
        weight: ρ(λ), broadcast to x.
        fx: f(x, t), (N, *S).

    Returns:
        dx/dt, (N, *S).

    Source: Yang et al. 2020, Eq. 4.
    """
    return weight * fx - lam * x


def exponential_step(x: Tensor, lam: Scalar, weight: Scalar, fx: Tensor, h: Scalar) -> Tensor:
    """One exponential Euler step, Eq. 8: x1 = e^{−λh} x + h φ_1(−λh) ρ f, where h φ_1(−λh) = (1 − e^{−λh}) / λ.

    It is exact for every λh if f is constant over the step; else the error per step is O(h²). At λ = 0 it is x + h f.
    As λ → ∞ it tends to f for ρ = 1 + λ (the paper's Eq. 10 prints Δt f) and to 0 for ρ = 1.

    Args:
        x: state, (N, *S).
        lam: damping λ >= 0, broadcast to x.
        weight: ρ(λ), broadcast to x.
        fx: f(x, t), (N, *S).
        h: step in depth time.

    Returns:
        State at t + h, (N, *S).

    Source: Yang et al. 2020, Eq. 8; Nørsett 1969.
    """
    z = torch.as_tensor(lam * -h, dtype=x.dtype, device=x.device)
    return torch.addcmul(phi(0, z) * x, h * phi(1, z) * weight, fx)


def linearized_step(x: Tensor, lam: Scalar, weight: Scalar, fx: Tensor, h: Scalar) -> Tensor:
    """One forward Euler step of Eq. 4: x1 = (1 − λh) x + h ρ f, with e^{−λh} ≈ 1 − λh (Eq. 11).

    Eq. 12 with ρ = 1; Eq. 14 with ρ = 1 + λ (the paper prints its weight as 1 + λΔt, which is h (1 + λ) at
    h = Δt = 1). At h = 1, λ = 0 it is x + f to the last bit, and λ = 1, ρ = 1 it is f to the last bit.

    Args:
        x: state, (N, *S).
        lam: damping λ >= 0, broadcast to x. The linear part is stable for λh in (0, 2).
        weight: ρ(λ), broadcast to x.
        fx: f(x, t), (N, *S).
        h: step in depth time.

    Returns:
        State at t + h, (N, *S).

    Source: Yang et al. 2020, Eqs. 11, 12, 14.
    """
    kept, gain = 1 - lam * h, h * weight
    if isinstance(gain, Tensor):
        return torch.addcmul(kept * x, gain, fx)
    driven = fx if gain == 1 else gain * fx  # ρ = 1 and h = 1, a layer of the paper, is one pass over the state
    return torch.addcmul(driven, x, kept) if isinstance(kept, Tensor) else torch.add(driven, x, alpha=kept)
