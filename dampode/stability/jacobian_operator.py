"""A field at one sample, and its Jacobian as a SciPy operator that never forms the matrix."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from dampode._checks import in_train_mode, require_field_value, require_real, require_state
from dampode._precision import default_dtype, full_float32
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField

__all__ = [
    "AGREE",
    "ConvergenceError",
    "Field",
    "JacobianOperator",
    "Map",
    "at_time",
    "jacobian",
    "require_eval",
    "require_sample",
]

Field = DampedODEFunc | VectorField | Callable[[Tensor], Tensor]
"""A field to analyze: a damped field, a `VectorField`, or any callable of the state alone, such as a block."""

Map = Callable[[Tensor], Tensor]
AGREE = 1e-3
"""Allowed relative difference of ⟨w, Jv⟩ and ⟨Jᵀw, v⟩, for rounding and the tolerance of a solver."""


class ConvergenceError(RuntimeError):
    """An iteration ended early. The message says what happened and what to do; ``best`` is the best result, or None."""

    def __init__(self, message: str, best: Tensor | None = None) -> None:
        super().__init__(message)
        self.best = best


def at_time(func: Field, t: float) -> Map:
    """The field at a fixed time, as a function of the state alone.

    Raises:
        TypeError: func is not callable, or t is not a number.
        ValueError: t is not finite, or func contains batch norm or dropout in train mode.
    """
    if not callable(func):
        raise TypeError(f"func must be a field or a callable of the state, got {type(func).__name__}")
    require_real(t, "t")
    if isinstance(func, nn.Module):
        require_eval(func)

    def fixed(x: Tensor) -> Tensor:
        with default_dtype(x.dtype):
            fx: Tensor = func(t, x) if isinstance(func, DampedODEFunc | VectorField) else func(x)
        return fx

    return fixed


def require_eval(module: nn.Module) -> None:
    """Raise unless every batch norm and dropout of a module is in eval mode."""
    why = {
        "dropout": "its random draws would look like the behavior of the field",
        "batch norm": "its value at one sample would depend on the batch",
    }
    for kind, name in in_train_mode(module):
        raise ValueError(f"{kind} must be in eval mode here, got {name} in train mode: {why[kind]}; call .eval() first")


def require_sample(x: Any, name: str = "x") -> None:
    """Raise unless ``x`` is one finite float32 or float64 sample (1, *S). Reads values."""
    require_state(x)
    if len(x) != 1:
        raise ValueError(f"{name} must be one sample (1, *S), got a batch of {len(x)}; pass {name}[i : i + 1]")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {x.dtype}; convert it with .float() or .double()")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite, got a state with NaN or infinite entries")


class JacobianOperator(LinearOperator):  # type: ignore[misc]
    """∂fn/∂x at one sample as a SciPy LinearOperator (D, D): products Jᵀu by vjp, and Jv by the vjp of u -> Jᵀu.

    The matrix is never formed. The constructor evaluates fn once. A product then costs one or two backward passes, and
    the memory is that of one evaluation with its graph. (torch.func.linearize makes products of about the same speed,
    but takes a second to trace. torch.func.jvp evaluates fn for every product; with batch norm that is several times
    slower.) Before the first J v, one product of each kind is compared, because J v would silently be 0 if autograd
    could not differentiate the backward pass of fn.

    Args:
        fn: a callable of the state alone that keeps its shape. J v needs a fn that autograd can differentiate twice.
        x: one sample, (1, *S), float32 or float64.

    Raises:
        ValueError: x is a batch or not finite; fn changes its shape; fn or its Jacobian is not finite at x; batch norm
            or dropout is in train mode; at the first J v, the backward pass of fn cannot be differentiated.
        TypeError: fn is not callable, or x is not a floating tensor.

    Source: `scipy.sparse.linalg.LinearOperator`; the double-vjp trick: J. Townsend 2017, "A new trick for calculating
    Jacobian vector products".
    """

    def __init__(self, fn: Map, x: Tensor) -> None:
        require_sample(x)
        fn = at_time(fn, 0.0)
        # in inference mode every derivative would be 0
        with full_float32(), torch.inference_mode(False), torch.enable_grad():
            self._x = x.detach().clone().requires_grad_()
            self._fx = fn(self._x)
            require_field_value(self._x, self._fx)
            self._u = torch.zeros_like(self._x, requires_grad=True)
            self._transposed = self._pull(self._fx, self._x, self._u, create_graph=True)
        _require_finite(self._fx, "f(x)")
        _require_finite(self._transposed, "its Jacobian")  # at u = 0, where an infinite slope gives NaN
        d = x.numel()
        super().__init__(np.float64 if x.dtype == torch.float64 else np.float32, (d, d))

    def _matvec(self, v: NDArray[Any]) -> NDArray[Any]:
        """J v."""
        return self._array(self._pull(self._differentiable, self._u, self._tensor(v)))

    def _rmatvec(self, v: NDArray[Any]) -> NDArray[Any]:
        """Jᵀ v."""
        return self._array(self._pull(self._fx, self._x, self._tensor(v)))

    @cached_property
    def _differentiable(self) -> Tensor:
        """Jᵀu with its graph in u, after a check that ⟨w, J Jᵀw⟩ is ‖Jᵀw‖² for a random w."""
        w = self._tensor(np.random.default_rng(0).standard_normal(self.shape[0]))
        v = self._pull(self._fx, self._x, w)
        jv = self._pull(self._transposed, self._u, v)
        got, expected = (w * jv).double().sum().item(), v.double().square().sum().item()
        if not abs(got - expected) <= AGREE * expected:
            raise ValueError(
                f"f's backward pass must be differentiable for products J v: ⟨w, J v⟩ must be ⟨Jᵀw, v⟩ = "
                f"{expected:.3g}, got {got:.3g}; use adjoint=False in TorchDiffEq, and tensor operations without "
                "detach and no_grad in the backward of a torch.autograd.Function"
            )
        return self._transposed

    @full_float32()
    def _pull(self, y: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
        """(∂y/∂x)ᵀ v; zero if y does not depend on x."""
        if not y.requires_grad:
            return torch.zeros_like(x)
        (pulled,) = torch.autograd.grad(
            y, x, v, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return pulled

    def _tensor(self, v: NDArray[Any]) -> Tensor:
        """A vector (D,) or (D, 1) with the state's shape and dtype, on its device."""
        return torch.from_numpy(np.array(v, dtype=self.dtype)).to(self._x.device).view(self._x.shape)

    def _array(self, v: Tensor) -> NDArray[Any]:
        """A state as a vector (D,)."""
        array: NDArray[Any] = v.detach().reshape(-1).cpu().numpy()
        return array


@full_float32()
def jacobian(func: Field, x: Tensor, t: float = 0.0) -> Tensor:
    """The Jacobian ∂func/∂x at one sample as a matrix, with one backward pass per row: for small D only.

    Args:
        func: a damped field, a `VectorField`, or a callable of the state alone.
        x: one sample, (1, *S), D numbers.
        t: depth time.

    Returns:
        (D, D), row i the gradient of component i; detached and on the CPU.

    Raises:
        ValueError: x is a batch or not finite, func changes its shape, the Jacobian is not finite at x, or batch norm
            or dropout is in train mode.
        TypeError: func is not callable, or x is not a floating tensor.
    """
    require_sample(x)
    operator = JacobianOperator(at_time(func, t), x)
    rows = np.stack([operator.rmatvec(e) for e in np.eye(x.numel(), dtype=operator.dtype)])
    _require_finite(torch.from_numpy(rows), "its Jacobian")
    return torch.from_numpy(rows)


def _require_finite(values: Tensor, name: str) -> None:
    """Raise unless every value is finite; LAPACK may never return if it is given NaN."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"the field must be finite at x, got NaN or infinite entries of {name}; check x and f")
