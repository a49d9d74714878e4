"""Coordinates in which a damping matrix A is diagonal: x = V z with A = V Λ V⁻¹, so that z' = −Λ z + V⁻¹ f(V z, t)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_field_value, require_instance, require_state
from dampode._precision import full_float32
from dampode.damping import Constant, Damping
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField

__all__ = ["Diagonalized", "Eigenbasis", "Eigenvalues", "diagonalized", "undamped"]


class Eigenbasis:
    """A = V Λ V⁻¹, from one eigendecomposition in double precision. It acts on the last axis of states.

    The columns of V have norm 1. Where all eigenvalues are real, so are V and the coordinates of a real state.
    Gradients pass to A through Λ and V.

    Args:
        matrix: A, (D, D).
        x: a state, (N, *S) with D numbers on its last axis.

    Raises:
        ValueError: the eigenvectors are ill-conditioned, or A wants a gradient and eigenvalues nearly coincide.
    """

    values: Tensor
    """Λ, (D,), in the dtype of the coordinates."""

    def __init__(self, matrix: Tensor, x: Tensor) -> None:
        double = torch.complex128 if matrix.is_complex() else torch.float64
        values, vectors = _decomposed(matrix.to(x.device, double))
        condition = float(torch.linalg.cond(vectors.detach()))
        # two thirds of the digits are left; written so that NaN is refused
        limit = torch.finfo(x.dtype).eps ** (-1 / 3)
        if not condition <= limit:
            raise ValueError(
                f"the eigenvectors of a damping matrix must have a condition number of at most {limit:.3g} for a state "
                f"of {x.dtype}, got {condition:.3g}; scale the numbers of the state to one size, leave in f the part "
                "of A that makes it defective, or take KenCarp4, which needs no eigenvectors"
            )
        inverse = torch.linalg.inv(vectors)
        self._real = not x.is_complex()
        dtype = torch.promote_types(x.dtype, torch.complex64) if values.is_complex() else x.dtype
        self.values, self._vectors, self._inverse = values.to(dtype), vectors.to(dtype), inverse.to(dtype)

    def flatten(self, x: Tensor, what: str = "the state") -> Tensor:
        """The coordinates z = V⁻¹ x of states (..., D).

        Args:
            x: states.
            what: what they are, for an error.
        """
        require_instance(x, Tensor, what)
        return self._product(self._inverse, x.to(self.values.dtype))

    def unflatten(self, z: Tensor) -> Tensor:
        """The states x = V z of coordinates (..., D), real ones if the state is real."""
        x = self._product(self._vectors, z)
        return x.real if self._real else x

    def flat_event(self, event: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """An event function of time and state as one of time and coordinates."""
        return lambda t, z: event(t, self.unflatten(z))

    def flat_map(self, change: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A map of number, time and state to a state as one of coordinates."""
        return lambda k, t, z: self.flatten(change(k, t, self.unflatten(z)), "the state after an event")

    def _product(self, matrix: Tensor, x: Tensor) -> Tensor:
        with full_float32():
            product: Tensor = x @ matrix.mT
        return product


class Eigenvalues(Damping):
    """The damping of the coordinates: Λ, with the negative real parts of growing modes set to 0.

    Args:
        values: Λ, (D,).
    """

    depends_on_state: bool = False
    depends_on_time: bool = False

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.growth = (-values.real).clamp(min=0.0)
        """By how much the damping is above Λ, (D,)."""
        self._damping, self.is_complex = values + self.growth, values.is_complex()

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The damping, (D,), real or complex as the coordinates are."""
        return self._damping


class Diagonalized(NamedTuple):
    """A problem with a damping matrix, in coordinates in which it is diagonal."""

    func: DampedODEFunc
    x: Tensor
    layout: Eigenbasis

    def tolerance(self, value: Any, name: str) -> float:
        """A tolerance of the coordinates: that of the state, which must be one number.

        Args:
            value: the tolerance.
            name: rtol or atol, for an error.

        Raises:
            TypeError: it is no number.
        """
        require_instance(
            value, (float, int), name, "with damping.Matrix a tolerance is one number for all of the state"
        )
        return float(value)


def diagonalized(func: DampedODEFunc, matrix: Tensor, x: Any) -> Diagonalized:
    """The damped vector field with a damping matrix, and the state, in the coordinates of the matrix.

    Args:
        func: the damped vector field, whose damping is the matrix.
        matrix: A, (D, D).
        x: the state, (N, *S).

    Raises:
        TypeError: the state is no tensor, or real with a complex matrix.
        ValueError: the matrix does not fit to the state, ρ is not 1, or as in `Eigenbasis`.
    """
    _require_fit(func, matrix, x)
    basis = Eigenbasis(matrix, x)
    damping = Eigenvalues(basis.values)
    field = _CoordinateField(func.f, basis, damping.growth)
    return Diagonalized(DampedODEFunc(field, damping), basis.flatten(x), basis)


def undamped(func: DampedODEFunc, matrix: Tensor, x: Any) -> DampedODEFunc:
    """The same dx/dt with λ = 0 and the vector field f − A x, for integrators that do not integrate −A x exactly.

    Args:
        func: the damped vector field, whose damping is the matrix.
        matrix: A, (D, D).
        x: the state, (N, *S).
    """
    _require_fit(func, matrix, x)
    return DampedODEFunc(_UndampedField(func.f, matrix), Constant(0.0))


class _CoordinateField(VectorField):
    """V⁻¹ f(V z, t), and the growing part of −Λ z."""

    def __init__(self, f: VectorField, basis: Eigenbasis, growth: Tensor) -> None:
        super().__init__()
        self.f, self._basis, self._growth = f, basis, growth

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The field at coordinates x, (N, *S)."""
        state = self._basis.unflatten(x)
        fx = self.f(t, state)
        require_field_value(state, fx)
        return torch.addcmul(self._basis.flatten(fx), self._growth, x)

    def breaks(self) -> Tensor | None:
        """Those of f."""
        return self.f.breaks()


class _UndampedField(VectorField):
    """f − A x."""

    def __init__(self, f: VectorField, matrix: Tensor) -> None:
        super().__init__()
        self.f, self._matrix = f, matrix

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The field at x, (N, *S)."""
        fx = self.f(t, x)
        require_field_value(x, fx)
        with full_float32():
            change: Tensor = fx - x @ self._matrix.to(x).mT
        return change

    def breaks(self) -> Tensor | None:
        """Those of f."""
        return self.f.breaks()


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Λ and V of a matrix in double precision, real where all eigenvalues are."""
    wants_gradient = matrix.requires_grad and torch.is_grad_enabled()
    if not wants_gradient and bool((matrix == matrix.mH).all()):
        symmetric = torch.linalg.eigh(matrix)
        return symmetric.eigenvalues, symmetric.eigenvectors
    values, vectors = torch.linalg.eig(matrix)
    if wants_gradient:
        _require_separate(values.detach())
        fixed = vectors.detach()

        def without_phase(grad: Tensor | None) -> Tensor | None:
            # no result depends on the phase of an eigenvector; torch refuses gradients that do, if only by rounding
            return None if grad is None else grad - 1j * fixed * (fixed.conj() * grad).sum(0).imag

        vectors.register_hook(without_phase)
    if not matrix.is_complex() and bool((values.imag == 0).all()):
        return values.real, vectors.real
    return values, vectors


def _require_separate(values: Tensor) -> None:
    """Raise if eigenvalues coincide so nearly that their eigenvectors have no derivative."""
    gaps = (values[:, None] - values).abs() + torch.eye(len(values), dtype=torch.float64, device=values.device).mul_(
        torch.finfo(torch.float64).max
    )
    limit = torch.finfo(torch.float64).eps ** 0.5 * float(values.abs().max())
    if len(values) > 1 and not float(gaps.min()) > limit:
        raise ValueError(
            "the eigenvalues of a damping matrix that is learned must be apart, because eigenvectors of equal "
            f"eigenvalues have no derivative: got a distance of {float(gaps.min()):.3g}, at least {limit:.3g} is "
            "needed; change the matrix a little"
        )


def _require_fit(func: DampedODEFunc, matrix: Tensor, x: Any) -> None:
    """Raise unless a damping matrix fits to the state and the weight function."""
    require_instance(x, Tensor, "the state of damping.Matrix", "make it one tensor, whose last axis the matrix acts on")
    require_state(x.real)
    if x.ndim < 2 or x.shape[-1] != len(matrix):
        raise ValueError(
            f"damping.Matrix acts on the last axis of the state: the matrix is {tuple(matrix.shape)}, the state is "
            f"{tuple(x.shape)}; one system of D numbers is (1, D)"
        )
    if matrix.is_complex() and not x.is_complex():
        raise TypeError(f"a complex damping matrix needs a complex state, got {x.dtype}; convert it with x + 0j")
    weight = func.weight(x.real.new_ones(()), x)
    if not isinstance(weight, float) or weight != 1.0:
        raise ValueError(
            "the weight function of damping.Matrix must be ρ = 1, because ρ is a function of numbers λ; take "
            "weighting.unit, and scale f itself"
        )
