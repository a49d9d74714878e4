"""Layers: `DampedBlock` over a time span, `EquilibriumBlock` to t1 = ∞, and `Transition`, which changes the shape."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dampode._checks import name_of, require_instance, require_real, require_state
from dampode.damping import Damping, Learned
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField
from dampode.integrators import Equilibria, Integrator, LinearizedEuler, SteadyState
from dampode.structures import State
from dampode.trajectory import in_other_variables
from dampode.weighting import Weighting, unit

__all__ = ["DampedBlock", "EquilibriumBlock", "Transition"]


class DampedBlock(nn.Module):
    """A layer that integrates dx/dt = −λ x + ρ(λ) f(x, t) over ``t_span``: x (N, *S) -> (N, *S).

    The defaults give one layer of In-ResNet, Eq. 13. Other networks choose the four parts differently:

    - ResNet: ``damping=Constant(0.)``. One step of h = 1 is then x + f(x) to the last bit.
    - CNN: ``damping=Constant(1.)``. One linearized step of h = 1 is then f(x) to the last bit.
    - λ-In-ResNet, Eq. 15: ``rho=weighting.one_plus``.
    - continuous depth: ``integrator=TorchDiffEq("dopri5")``.

    Args:
        f: a `VectorField`, or any callable of the state alone. It is the branch alone: a residual block x + branch(x)
            would add the state a second time.
        damping: λ; None makes a new ``Learned(0.2, 0.25)`` for this instance.
        rho: the weight function ρ.
        integrator: takes the state from t_span[0] to t_span[1].
        t_span: (t0, t1) with t0 < t1.

    Raises:
        ValueError: t_span does not increase; in forward, the state is empty or f changes its shape.
        TypeError: a part is of the wrong type; in forward, the state is not a floating tensor.

    Source: Yang et al. 2020, Eqs. 4, 8, 13, 15.
    """

    def __init__(
        self,
        f: VectorField | Callable[[Tensor], Tensor],
        damping: Damping | None = None,
        rho: Weighting = unit,
        integrator: Integrator = LinearizedEuler(),
        t_span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
        t0, t1 = _two_times(t_span)
        self.func = DampedODEFunc(f, damping, rho)
        self.integrator = integrator
        self.t_span = (t0, t1)

    @property
    def damping(self) -> Damping:
        """The damping λ, which is ``func.damping``. It can be set."""
        return self.func.damping

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register a module under this name, where the property hides it
        if name == "damping":
            require_instance(value, Damping, "damping", "wrap a number in Constant(value)")
            self.func.damping = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: State) -> State:
        """The state at t_span[1], (N, *S), in the structure of x."""
        func, flat = in_other_variables(self.func, x, self.integrator)
        if flat is not None:
            integrator = self.integrator.laid_out(flat.tolerance)
            return cast(State, flat.layout.unflatten(integrator(flat.func, flat.x, *self.t_span)))
        return cast(State, self.integrator(func, cast(Tensor, x), *self.t_span))

    def extra_repr(self) -> str:
        """Integrator and time span."""
        return f"integrator={self.integrator}, t_span={self.t_span}"


class EquilibriumBlock(nn.Module):
    """A layer that goes to t1 = ∞: u (N, *S) -> x* with −λ x* + ρ(λ) f(x*, u) = 0.

    The input u is part of the field, and not the initial state, which an equilibrium forgets. Gradients reach u and all
    parameters by the implicit function theorem (`SteadyState`).

    Args:
        f: a callable of (x, u) that keeps x's shape; a module is registered with its parameters.
        damping: λ; None makes a new ``Learned(1.0, 1.0)``, which starts as the equation x = f(x, u).
        rho: the weight function ρ.
        integrator: the search for the equilibrium and its tolerances.

    Raises:
        TypeError: a part is of the wrong type; in forward, the input is not a floating tensor.
        IntegrationError: in forward, a sample does not converge, and the integrator is strict.

    Source: Bai, Kolter & Koltun 2019, Deep equilibrium models; Yang et al. 2020, Eq. 17.
    """

    def __init__(
        self,
        f: Callable[[Tensor, Tensor], Tensor],
        damping: Damping | None = None,
        rho: Weighting = unit,
        integrator: SteadyState = SteadyState(),
    ) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be a callable of (x, u), got {type(f).__name__}")
        damping = Learned(1.0, 1.0) if damping is None else damping
        require_instance(damping, Damping, "damping", "wrap a number in Constant(value)")
        require_instance(integrator, SteadyState, "integrator", "other integrators are for DampedBlock")
        self.f = f
        self.damping = damping
        self.rho = rho
        self.integrator = integrator

    def func(self, u: Tensor) -> DampedODEFunc:
        """The damped field of one input, (N, *S): dx/dt = −λ x + ρ(λ) f(x, u)."""
        require_state(u)
        return DampedODEFunc(_WithInput(self.f, u), self.damping, self.rho)

    def forward(self, u: Tensor, start: Tensor | None = None) -> Tensor:
        """The equilibrium, (N, *S), searched from ``start``, (N, *S); None: from 0."""
        return self.integrator(self.func(u), torch.zeros_like(u) if start is None else start, 0.0, 1.0)

    def equilibria(self, u: Tensor, start: Tensor | None = None) -> Equilibria:
        """The equilibrium with residual, calls and status of each sample. A failure is no error here."""
        return self.integrator.equilibria(self.func(u), torch.zeros_like(u) if start is None else start)

    def extra_repr(self) -> str:
        """Integrator and weight function."""
        return f"integrator={self.integrator}, rho={name_of(self.rho)}"


class _WithInput(VectorField):
    """f(x, u) at one u."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], u: Tensor) -> None:
        super().__init__()
        self.f = f
        self.u = u

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        return self.f(x, self.u)


class Transition(nn.Module):
    """A change of shape between flows: shortcut(x) + f(x). It is not the flow of an ODE, so it has no damping.

    Args:
        f: maps (N, *S) to (N, *S').
        shortcut: maps (N, *S) to the same (N, *S').

    Raises:
        ValueError: in forward, f and shortcut give different shapes.

    Source: He et al. 2016, Identity mappings in deep residual networks (projection shortcuts).
    """

    def __init__(self, f: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        require_instance(f, nn.Module, "f")
        require_instance(shortcut, nn.Module, "shortcut")
        self.f = f
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """shortcut(x) + f(x), (N, *S')."""
        fx: Tensor = self.f(x)
        kept: Tensor = self.shortcut(x)
        if fx.shape != kept.shape:
            raise ValueError(
                "f and shortcut must give one shape, "
                f"got {tuple(fx.shape)} from f and {tuple(kept.shape)} from shortcut"
            )
        return kept + fx


def _two_times(t_span: tuple[float, float]) -> tuple[float, float]:
    """t_span as two increasing floats, or a worded error."""
    if not isinstance(t_span, tuple | list) or len(t_span) != 2:
        raise TypeError(f"t_span must be a pair (t0, t1), got {t_span!r}")
    for name, t in zip(("t_span[0]", "t_span[1]"), t_span, strict=True):
        require_real(t, name)
    t0, t1 = float(t_span[0]), float(t_span[1])
    if t0 >= t1:
        raise ValueError(f"t_span must increase, got ({t0:g}, {t1:g})")
    return t0, t1
