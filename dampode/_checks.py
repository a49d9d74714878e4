"""Checks whose errors name rule, value and remedy. A wrong value is a ValueError, a wrong type a TypeError."""

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = [
    "CHANGED_IN_PLACE",
    "as_seed",
    "first_tensor",
    "has_autocast",
    "in_train_mode",
    "name_of",
    "require_broadcast",
    "require_damping_values",
    "require_field_value",
    "require_instance",
    "require_labels",
    "require_labels_below",
    "require_logits",
    "require_nonnegative",
    "require_positive",
    "require_positive_int",
    "require_real",
    "require_state",
    "require_unchanged",
    "version",
]


CHANGED_IN_PLACE = (
    "f must leave the state as it is, because the step needs it, but f changed x in place; begin f with x.clone(), or "
    "use inplace=False in its first activation"
)


def require_instance(value: Any, kind: type | tuple[type, ...], name: str, remedy: str = "") -> None:
    """Raise a TypeError unless ``value`` is an instance of ``kind``."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        if isinstance(value, type):
            got, remedy = f"the class {value.__name__}", f"make an instance, {value.__name__}(...)"
        else:
            got = type(value).__name__
        raise TypeError(f"{name} must be of type {wanted}, got {got}{'; ' + remedy if remedy else ''}")


def require_positive_int(value: Any, name: str) -> None:
    """Raise unless ``value`` is an int of at least 1. A bool is refused."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a positive int, got {value!r} of type {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be a positive int, got {value}")


def as_seed(value: Any) -> int:
    """The seed as a plain int, so that every integer type gives the same draws.

    Raises:
        TypeError: the value is not an integer. A bool is refused.
        ValueError: the seed has more than 64 bits, which no generator takes.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        seed = operator.index(value)
    except TypeError:
        raise TypeError(f"a seed must be an int, got {value!r} of type {type(value).__name__}") from None
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed must have at most 64 bits, got {seed}; choose one from 0 to 2**64 - 1")
    return seed


def require_real(value: Any, name: str) -> None:
    """Raise unless ``value`` is a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def require_positive(value: Any, name: str) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    require_real(value, name)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def require_nonnegative(value: Any, name: str) -> None:
    """Raise unless ``value`` is a finite number of at least 0."""
    require_real(value, name)
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def name_of(function: Any) -> str:
    """The name of a function in a repr, and so in an architecture."""
    return str(getattr(function, "__name__", repr(function)))


def require_damping_values(lam: Tensor) -> None:
    """Raise unless every λ is finite and at least 0. This reads values, so no forward pass may call it."""
    if lam.is_complex():
        raise TypeError(f"λ must be real, got dtype {lam.dtype}; an imaginary part is a rotation, which belongs into f")
    if not lam.is_floating_point():
        raise TypeError(f"λ must be a floating tensor, got dtype {lam.dtype}; convert it with .float()")
    if lam.is_meta:
        return  # a meta tensor has no values
    if not bool(torch.isfinite(lam).all()):
        raise ValueError("λ must be finite, got a tensor with NaN or infinite entries")
    if bool((lam < 0).any()):
        raise ValueError(f"λ must be at least 0, got a tensor with minimum {lam.min().item():g}")


def require_square_matrix(matrix: Any) -> None:
    """Raise unless ``matrix`` is a finite tensor (D, D), floating or complex. Reads values."""
    require_instance(matrix, Tensor, "a damping matrix", "use torch.tensor")
    if not (matrix.is_floating_point() or matrix.is_complex()):
        raise TypeError(f"a damping matrix must be floating or complex, got {matrix.dtype}; convert it with .float()")
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1] or matrix.numel() == 0:
        raise ValueError(
            f"a damping matrix must be (D, D), got shape {tuple(matrix.shape)}; Constant takes λ by element"
        )
    if not matrix.is_meta and not bool(torch.isfinite(matrix).all()):
        raise ValueError("a damping matrix must be finite, got NaN or infinite entries")


def require_state(x: Any) -> None:
    """Raise unless ``x`` is a floating tensor (N, *S) with at least one element. Reads no values."""
    if not isinstance(x, Tensor):
        raise TypeError(f"the state x must be a tensor (N, *S), got {type(x).__name__}")
    if x.is_complex():
        raise TypeError(
            f"the state x must be real, got dtype {x.dtype}; give torch.view_as_real(x), whose last dimension holds "
            "real and imaginary part, and let f begin with torch.view_as_complex"
        )
    if not x.is_floating_point():
        raise TypeError(f"the state x must be floating, got dtype {x.dtype}; convert it with x.float()")
    if x.ndim == 0:
        raise ValueError("the state x must be (N, *S) with a batch dimension, got a 0-dim tensor; use x[None]")
    if x.numel() == 0:
        raise ValueError(f"the state x must not be empty, got shape {tuple(x.shape)}")


def require_labels(y: Any, n: int) -> None:
    """Raise unless ``y`` holds n > 0 labels (N,), int64 and at least 0."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        got = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"labels must be an int64 tensor (N,), got {got}; convert them with .long()")
    if y.shape != (n,) or n == 0:
        raise ValueError(f"one label per image is needed, and at least one image: {n} images, labels {tuple(y.shape)}")
    if bool((y < 0).any()):
        raise ValueError(f"labels must be at least 0, got {y.min().item()}")


def require_labels_below(y: Tensor, classes: int) -> None:
    """Raise unless every label is a class of the model."""
    if int(y.max()) >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), the model's classes, got {int(y.max())}")


def require_logits(z: Any, n: int, classes: int) -> None:
    """Raise unless ``z`` holds the logits of n images, (n, K) with K >= classes. Reads no values."""
    require_instance(z, Tensor, "the model's output")
    if z.ndim != 2 or len(z) != n:
        raise ValueError(f"the model must give logits (N, classes), got shape {tuple(z.shape)} for {n} images")
    if z.shape[1] < classes:
        raise ValueError(f"the model must have a logit for each class, got {z.shape[1]} for data of {classes} classes")


def first_tensor(x: Any) -> Tensor:
    """The first tensor of a tuple, list or dict of tensors, or the tensor itself."""
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return x


def has_autocast(x: Tensor) -> bool:
    """Whether autocast is on for x's device. Some devices, such as meta, have none."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def require_field_value(x: Tensor, fx: Any) -> None:
    """Raise unless f(x, t) has x's shape, device and, outside autocast, dtype. Reads no values."""
    if not isinstance(fx, Tensor):
        raise TypeError(f"f must return a tensor, got {type(fx).__name__}")
    if fx.shape != x.shape:
        raise ValueError(
            f"f must keep the state's shape: x is {tuple(x.shape)}, f(t, x) is {tuple(fx.shape)}; "
            "in a network, Transition changes it"
        )
    if fx.device != x.device:
        raise ValueError(f"f must keep the state's device: x is on {x.device}, f(t, x) on {fx.device}; move f with .to")
    if fx.is_complex() and not x.is_complex():
        raise TypeError(
            f"f must keep the state's dtype: x is {x.dtype}, f(t, x) is {fx.dtype}; return torch.view_as_real of it, "
            "for a state whose last dimension holds real and imaginary part"
        )
    if fx.dtype != x.dtype and not has_autocast(x):
        raise TypeError(f"f must keep the state's dtype: x is {x.dtype}, f(t, x) is {fx.dtype}; convert one with .to")


def version(x: Tensor) -> int | None:
    """How often ``x`` was changed in place; None if torch does not count it. Reads no values."""
    uncounted = torch.compiler.is_compiling() or x.is_inference() or torch._C._functorch.is_batchedtensor(x)
    return None if uncounted else x._version


def require_unchanged(x: Tensor, before: int | None) -> None:
    """Raise unless ``x`` still has the `version` from before a call of f."""
    if version(x) != before:
        raise ValueError(CHANGED_IN_PLACE)


def require_broadcast(value: Tensor, x: Tensor, name: str) -> None:
    """Raise unless ``value`` broadcasts to x's shape without enlarging it. Reads no values."""
    fits = value.ndim <= x.ndim and all(
        a in (1, b) for a, b in zip(reversed(value.shape), reversed(x.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must broadcast to the state: x is {tuple(x.shape)}, {name} is {tuple(value.shape)}; "
            'per-channel values of an image state have shape (C, 1, 1); see "Choosing λ and ρ" in the documentation'
        )


def in_train_mode(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The layers in train mode that make a module random, or make one sample depend on the rest of its batch.

    Yields:
        The kind, "dropout" or "batch norm", and the name of every such layer. Batch norm without running statistics
        always counts.
    """
    for name, part in module.named_modules():
        if isinstance(part, _DropoutNd) and part.training:
            yield "dropout", name or "a layer"
        if isinstance(part, _BatchNorm) and (part.training or not part.track_running_stats):
            yield "batch norm", name or "a layer"
