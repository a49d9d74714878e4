"""The integrator to t1 = ∞: the equilibrium of the damped field."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dampode._checks import in_train_mode, require_instance, require_positive, require_positive_int
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar, damped_rhs
from dampode.integrators.base import (
    IntegrationError,
    Integrator,
    require_call,
    require_field_and_state,
    require_single,
)
from dampode.integrators.dense_solution import require_no_dense
from dampode.integrators.implicit.equilibrium_gradient import GradientReport, equilibrium_with_gradient
from dampode.integrators.implicit.equilibrium_search import Equilibria, search
from dampode.integrators.jumps import Jumps, require_no_jumps
from dampode.integrators.sample_times import columns
from dampode.integrators.solution import Solution, Status
from dampode.integrators.tolerance import Tolerance

__all__ = ["SteadyState", "UnconvergedWarning"]


class UnconvergedWarning(UserWarning):
    """A sample is not at an equilibrium, and ``strict=False`` lets its best state pass."""


@dataclass(frozen=True)
class SteadyState(Integrator):
    """The equilibrium x* with −λ x* + ρ f(x*) = 0, the state at t1 = ∞ of a field that forgets its start.

    The state that is given is only the start of the search, and no part of the equation: where there is one
    equilibrium, the result does not depend on it. A network whose input shall matter takes an `EquilibriumBlock`, whose
    f reads the input. The field is frozen at the time t1, so `trajectory` gives the equilibrium of the field at each
    time, started from the last one.

    The search accelerates the fixed-point iteration x ← x + (−λx + ρ f) / s, s = max(λ, 1), by Anderson's method; for
    λ >= 1 that is x ← ρ f(x) / λ. A step that does not lower the residual enough is shortened. Each sample has its own
    steps and its own stop. Its residual is measured at the state that is returned. A small residual counts as an
    equilibrium only if the next step is short too. Memory does not grow with the number of steps.

    The equation −λx + ρ f = 0 may have no solution, or several. The search finds one or says that it did not. If
    λ > ρ Lip(f) there is exactly one (Banach), and also if f is the negative gradient of a convex function and λ > 0.
    At λ = 0 the search is for a zero of f. The result need not be stable: `stability.is_asymptotically_stable` tells.

    Gradients are those of the implicit function theorem. GMRES solves its linear equations, with products of the
    transposed Jacobian at x*, to a tolerance of their own. What is left is measured, and an `InexactGradientWarning`
    says if it is too much. Gradients reach all that f, λ and ρ depend on; the gradient to the start is 0. Second
    derivatives work. The search keeps no graph.

    Args:
        rtol, atol: tolerances, > 0: |−λx + ρ f| / s must be at most rtol |λx| / s + √d atol for d numbers in a sample.
            rtol is raised to ten rounding errors if it is less.
        max_calls: calls of f that a sample may need.
        memory: states that Anderson's method combines. A sample keeps twice as many tensors of its size.
        gradient_rtol: relative tolerance of the linear equations of the gradient, > 0.
        gradient_terms: None for the implicit function theorem. k sums k terms of a Neumann series in its place (a
            phantom gradient), which costs k products. Its error is measured, not bounded, and there are no second
            derivatives.
        strict: whether a call raises an error if a sample does not converge. Without it, the state with the smallest
            residual passes, with an `UnconvergedWarning`.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type. In a solve: a state of half precision;
            batch norm or dropout in train mode; an f in which samples are found to depend on one another.
        IntegrationError: in a call with ``strict``, a sample did not converge.

    Source: Walker & Ni 2011 (Anderson acceleration); Bai, Kolter & Koltun 2019 (deep equilibrium models).
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    max_calls: int = 200
    memory: int = 16
    gradient_rtol: float = 1e-5
    gradient_terms: int | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("rtol", "atol", "gradient_rtol"):
            require_positive(getattr(self, name), name)
        require_positive_int(self.max_calls, "max_calls")
        require_positive_int(self.memory, "memory")
        if self.gradient_terms is not None:
            require_positive_int(self.gradient_terms, "gradient_terms")
        require_instance(self.strict, bool, "strict")

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The equilibrium of the field at t1, (N, *S), searched from x."""
        require_call(func, x, t0, t1)
        return self._passed(self.equilibria(func, x, t1))

    def equilibria(self, func: DampedODEFunc, x: Tensor, t: Scalar = 0.0) -> Equilibria:
        """The equilibria with their residuals, calls and statuses. A sample that does not converge is no error.

        Args:
            func: the damped vector field.
            x: where to start, (N, *S).
            t: the time at which the field is frozen, a number, () or (N, 1, ..., 1).
        """
        require_field_and_state(func, x)
        require_single(x)
        for kind, name in in_train_mode(func):
            raise ValueError(
                f"an equilibrium per sample needs an f without {kind} in train mode, got {name} in train mode; call "
                ".eval() on it, or take LayerNorm or GroupNorm in place of batch norm"
            )
        equation = _Equation(func, x.detach(), t)
        # the first call shows whether anything in f wants a gradient
        first = equation.residual(x.detach())
        wanted = torch.is_grad_enabled() and (first.requires_grad or x.requires_grad)
        first = first.detach()  # the search keeps no graph
        with torch.no_grad():
            found = search(equation.search_from(first), *equation.start, Tolerance(self.rtol, self.atol), *self._limits)
            rms = (found.residual * equation.scale).square().mean(1).sqrt()
        report = GradientReport(None if self.gradient_terms else self.gradient_rtol)
        states = found.x.reshape(x.shape)
        if wanted:
            states = equilibrium_with_gradient(equation.fixed_point_map, states, report, self.gradient_terms)
            states = torch.where(x.new_ones((), dtype=torch.bool), states, x)  # a gradient of 0 reaches the start
        status = found.status
        if bool(equation.negative.any()):
            status = tuple(map(_judged, status, equation.negative.tolist()))
        return Equilibria(states, rms, found.nfe, status, report)

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Tensor:
        """The equilibrium of the field at each of the ``times``, after x itself."""
        require_no_jumps(jumps, type(self).__name__)
        states = [x]
        for t in columns(times[..., 1:], x):
            states.append(self._passed(self.equilibria(func, states[-1], t)))
        return torch.stack(states)

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """`trajectory` with calls and a status per sample. A sample that failed once is NaN from there on."""
        require_no_jumps(jumps, type(self).__name__)
        require_no_dense(dense, type(self).__name__, "an equilibrium is a state of its own time alone")
        begin = times.detach().double().to(x.device)
        states, reached = [x], begin[..., 0].expand(len(x)).clone()
        nfe, status = torch.zeros(len(x), dtype=torch.int64, device=x.device), (Status.SUCCESS,) * len(x)
        start = x
        for k, t in enumerate(columns(times[..., 1:], x), 1):
            found = self.equilibria(func, start, t)
            start, nfe = found.x, nfe + found.nfe
            status = tuple(map(_first_failure, status, found.status))
            sound = torch.tensor([s is Status.SUCCESS for s in status], device=x.device)
            states.append(torch.where(sound.reshape(-1, *[1] * (x.ndim - 1)), found.x, torch.nan))
            reached = torch.where(sound, begin[..., k], reached)
        unknown = torch.full_like(nfe, -1)
        return Solution(times, torch.stack(states), nfe, unknown, unknown, status, reached)

    @property
    def _limits(self) -> tuple[int, int]:
        return self.memory, self.max_calls

    def _passed(self, found: Equilibria) -> Tensor:
        """The states, if their statuses allow it."""
        failure = found.failure()
        if failure is not None:
            if self.strict:
                raise IntegrationError(failure)
            warnings.warn(failure, UnconvergedWarning, stacklevel=3)
        return found.x


class _Equation:
    """−λx + ρ f(x) = 0 at one time, divided by s = max(λ, 1), where λ is taken at the start.

    Args:
        func: the damped vector field.
        x: the start, (N, *S).
        t: the time.
    """

    def __init__(self, func: DampedODEFunc, x: Tensor, t: Scalar) -> None:
        self._func, self._t, self._shape = func, t, x.shape
        with torch.no_grad():
            lam = func.lam(t, x).detach().expand_as(x)
            self._s = lam.clamp(min=1.0)
        self.negative = (~(lam >= 0)).reshape(len(x), -1).any(1)
        """Whether λ of a sample is negative or NaN anywhere, (N,)."""
        flat = x.reshape(len(x), -1)
        self.scale = self._s.reshape(flat.shape)
        """s, (N, d)."""
        self.start = (flat, lam.reshape(flat.shape) / self.scale)
        """The start and λ / s, (N, d)."""

    def residual(self, x: Tensor) -> Tensor:
        """(−λx + ρ f) / s, (N, *S). It calls f once."""
        lam, weight, fx = self._func.parts(self._t, x)
        return damped_rhs(x, lam, weight, fx.to(x.dtype)) / self._s

    def fixed_point_map(self, x: Tensor) -> Tensor:
        """The map x + (−λx + ρ f) / s, (N, *S)."""
        return x + self.residual(x)

    def search_from(self, first: Tensor) -> Callable[[Tensor], Tensor]:
        """The residual on (N, d). The first call gives ``first``, which is the residual at the start."""
        known = [first.reshape(self.start[0].shape)]

        def residual(x: Tensor) -> Tensor:
            return known.pop() if known else self.residual(x.reshape(self._shape)).reshape(x.shape)

        return residual


def _judged(status: Status, negative: bool) -> Status:
    return Status.NEGATIVE_DAMPING if negative else status


def _first_failure(before: Status, now: Status) -> Status:
    return now if before is Status.SUCCESS else before
