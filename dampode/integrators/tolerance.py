"""The tolerance of a step: one number, a tensor beside the state, or a value for each part of a structured state."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dampode._checks import require_broadcast, require_instance, require_positive
from dampode.functional import Scalar

__all__ = ["Tolerance", "Tolerances", "norm_of_rows", "require_tolerance"]

Tolerances = float | Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]
"""What a user may give as rtol or atol: a number, a tensor that broadcasts to the state, or a tuple, list or dict of
these in the structure of the state."""


class Tolerance(NamedTuple):
    """The tolerance of one step: atol + rtol |x|, elementwise."""

    rtol: Scalar
    """A number, or a tensor that broadcasts to the state."""
    atol: Scalar

    @classmethod
    def of(cls, rtol: Tolerances, atol: Tolerances, x: Tensor) -> "Tolerance":
        """The tolerance for a state of one tensor.

        Args:
            rtol: what the user gave. A structure has been laid out as x is.
            atol: the same.
            x: a state, (N, *S).

        Raises:
            TypeError: a tolerance is a structure.
            ValueError: a tolerance does not broadcast to the state.
        """
        return cls(_beside(rtol, x, "rtol"), _beside(atol, x, "atol"))

    @property
    def smallest_rtol(self) -> float:
        """Rtol where one number must stand for all. It reads a value if rtol is a tensor."""
        return float(self.rtol.min()) if isinstance(self.rtol, Tensor) else self.rtol

    @property
    def smallest_atol(self) -> float:
        """Atol where one number must stand for all. It reads a value if atol is a tensor."""
        return float(self.atol.min()) if isinstance(self.atol, Tensor) else self.atol

    def at_least(self, rtol: float) -> "Tolerance":
        """The tolerance with no rtol below the given one."""
        if isinstance(self.rtol, Tensor):
            return self._replace(rtol=self.rtol.clamp(min=rtol))
        return self._replace(rtol=max(self.rtol, rtol))

    def flattened(self, x: Tensor) -> "Tolerance":
        """The tolerance for states x (N, *S) that are laid out as (N, d)."""

        def flat(value: Scalar) -> Scalar:
            if not isinstance(value, Tensor) or value.numel() == 1:
                return value
            rows = value.reshape(*[1] * (x.ndim - value.ndim), *value.shape)
            return rows.expand(len(rows), *x.shape[1:]).reshape(len(rows), -1)

        return Tolerance(flat(self.rtol), flat(self.atol))

    def allowed(self, size: Tensor, share: float = 1.0) -> Tensor:
        """Share (atol + rtol |x|) for |x| = ``size``, (N, *S)."""
        return (size * (share * self.rtol)).add_(share * self.atol)

    def ratio(self, error: Tensor, size: Tensor) -> Tensor:
        """The error relative to the tolerance: the root mean square of error / (atol + rtol size) over each sample.

        Args:
            error: (N, *S).
            size: |x|, (N, *S).

        Returns:
            The ratio, (N, 1, ..., 1). A step is accepted where it is at most 1.
        """
        ratio = error / self.allowed(size, math.sqrt(error[0].numel()))
        norm = norm_of_rows(ratio.reshape(len(error), -1))
        return norm.to(size.dtype).reshape(-1, *[1] * (error.ndim - 1))


def norm_of_rows(rows: Tensor) -> Tensor:
    """The norms of real or complex numbers over their last axis, in float64.

    The squares of float32 numbers overflow beyond 1e19.
    """
    double = torch.promote_types(rows.dtype, torch.float64)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=double)
    return norms


def require_tolerance(value: Tolerances, name: str) -> None:
    """Raise unless every number and tensor of a tolerance is finite and above 0.

    Args:
        value: the tolerance.
        name: what it is, for the error.

    Raises:
        TypeError: a leaf is no number and no floating tensor, or wants a gradient.
        ValueError: a value is not above 0, or a structure is empty.
    """
    if isinstance(value, tuple | list | dict):
        parts = list(_parts(value, name))
        if not parts:
            raise ValueError(f"{name} must have a value for every part of the state, got {value!r}")
        for where, part in parts:
            require_tolerance(part, where)
    elif isinstance(value, Tensor):
        if not value.is_floating_point() or value.requires_grad:
            got = "one that wants a gradient" if value.requires_grad else f"dtype {value.dtype}"
            raise TypeError(
                f"{name} must be a floating tensor without gradient, got {got}; use .double() and .detach()"
            )
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"{name} must be finite and above 0, got {value.tolist()}")
    else:
        require_positive(value, name)


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The entries of a tuple, list or dict, with their names."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield f"{name}[{key!r}]", part


def _beside(value: Tolerances, x: Tensor, name: str) -> Scalar:
    """A tolerance as a number, or as a tensor that broadcasts to x."""
    remedy = f"the state is one tensor of shape {tuple(x.shape)}, so give one number, or a tensor that broadcasts to it"
    require_instance(value, (float, int, Tensor), name, remedy)
    if isinstance(value, Tensor):
        require_broadcast(value, x, name)
        return value.to(x)
    return cast(float, value)
