"""Whether an answer depends on the coupling of its samples, or on the random numbers of its field."""

import torch
from torch import Tensor

from dampode import DampedODEFunc, solve
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, IntegrationError, KenCarp4, Status, TorchDiffEq
from dampode.integrators.tolerance import Tolerance

__all__ = ["OneByOne", "ToTolerance", "differs_from", "tolerances_apart"]

ToTolerance = AdaptiveExponential | KenCarp4 | TorchDiffEq


class OneByOne(VectorField):
    """A field that calls another field with each sample alone."""

    def __init__(self, f: VectorField) -> None:
        super().__init__()
        self.f = f

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x_i, t_i) of every sample i, (N, *S)."""
        times = t.expand(len(x), *t.shape[1:]).split(1) if isinstance(t, Tensor) and t.ndim > 0 else [t] * len(x)
        return torch.cat([self.f(time, one) for time, one in zip(times, x.split(1), strict=True)])


def differs_from(
    func: DampedODEFunc, x: Tensor, times: Tensor, integrator: ToTolerance, xs: Tensor, sound: Tensor, limit: float
) -> bool:
    """Whether an answer differs by more than ``limit`` tolerances from the answer of another field.

    Args:
        func: the other field.
        x: initial state, (N, *S).
        times: output times, (T,).
        integrator: the integrator of both answers.
        xs: the answer, (T, N, *S).
        sound: the samples that it solves, (N,).
        limit: tolerances.
    """
    try:
        with torch.no_grad():
            other = solve(func, x.detach(), times.detach(), integrator)
    except (ValueError, IntegrationError):
        return False  # nothing to compare with
    both = sound & torch.tensor([status is Status.SUCCESS for status in other.status])
    apart = tolerances_apart(integrator, xs.detach(), other.x)[:, both]
    return bool((apart > limit).any())


def tolerances_apart(integrator: ToTolerance, xs: Tensor, exact: Tensor) -> Tensor:
    """How many tolerances, atol + rtol max|x| up to that time, an answer is off, (T, N).

    Args:
        integrator: has the tolerances.
        xs: the answer, (T, N, *S).
        exact: what it should be, (T, N, *S).
    """
    tol = Tolerance.of(integrator.rtol, integrator.atol, xs[0]).at_least(10 * torch.finfo(xs.dtype).eps)
    size = _largest(exact).cummax(0).values  # (T, N)
    if isinstance(integrator, TorchDiffEq):
        size = size.amax(1, keepdim=True).expand_as(size)
    return _largest(xs.double() - exact.double()) / tol.allowed(size)


def _largest(xs: Tensor) -> Tensor:
    """The largest absolute number of each sample, (T, N)."""
    return xs.abs().reshape(*xs.shape[:2], -1).amax(2)
