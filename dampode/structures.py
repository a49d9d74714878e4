"""States of several tensors, real or complex: laid out as one real tensor (N, D) for a solve, and put back after it."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from dampode._checks import require_broadcast, require_instance
from dampode.damping import Damping, PerPart
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField

__all__ = ["Flat", "Layout", "State", "Structure", "flattened"]

Structure = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]
"""A tensor, or a tuple, list or dict of structures."""

State = TypeVar("State", bound=Structure)
"""The structure of a state. A solve keeps it."""


class Part(NamedTuple):
    """One tensor of a structure."""

    name: str
    """How it is reached, such as "[0]"; "" if the structure is one tensor."""
    shape: tuple[int, ...]
    """*S of (N, *S)."""
    is_complex: bool
    size: int
    """How many real numbers it takes per sample."""


class Layout:
    """Where the parts of a structure are in one real tensor (N, D). A complex number takes two places.

    Args:
        x: the structure, of tensors (N, *S_i).

    Raises:
        ValueError: it holds no tensor, or the parts differ in N, or are empty.
        TypeError: a part is no floating or complex tensor, or the parts differ in precision or device.
    """

    def __init__(self, x: Structure) -> None:
        leaves = list(_leaves(x, "the state"))
        _require_alike(leaves)
        self._template = x
        self.parts = [
            Part(name, tuple(v.shape[1:]), v.is_complex(), prod(v.shape[1:]) * (2 if v.is_complex() else 1))
            for name, v in leaves
        ]

    def flatten(self, x: Structure, what: str = "the state") -> Tensor:
        """A structure of tensors (N, *S_i) as (N, D).

        Args:
            x: the structure.
            what: what it is, for an error.

        Raises:
            ValueError: it is another structure, or a part has another shape.
            TypeError: a part that should be real is complex, or the other way round.
        """
        leaves = list(_leaves(x, what))
        if [name for name, _ in leaves] != [part.name for part in self.parts] or type(x) is not type(self._template):
            raise ValueError(
                f"{what} must have the structure of the state, {_outline(self._template)}, got {_outline(x)}"
            )
        n = len(leaves[0][1])
        for (name, value), part in zip(leaves, self.parts, strict=True):
            if tuple(value.shape) != (n, *part.shape):
                raise ValueError(
                    f"{what} must keep the shape of every part: part {name} is (N, *S) with S = {part.shape}, got "
                    f"{tuple(value.shape)} for N = {n}"
                )
            if value.is_complex() != part.is_complex:
                kind = "complex" if part.is_complex else "real"
                raise TypeError(f"{what} must be {kind} in part {name} as the state is, got {value.dtype}")
        return torch.cat([_real(value).reshape(n, -1) for _, value in leaves], 1)

    def unflatten(self, x: Tensor) -> Any:
        """(..., N, D) as the structure, of tensors (..., N, *S_i)."""
        return _rebuilt(self._template, iter(self.values(x)))

    def values(self, x: Tensor) -> list[Tensor]:
        """The parts of (..., N, D), each (..., N, *S_i)."""
        split = x.split([part.size for part in self.parts], -1)
        return [_shaped(value, part) for value, part in zip(split, self.parts, strict=True)]

    def flat_event(self, event: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """An event function of time and structure as one of time and (N, D)."""
        return lambda t, x: event(_time(t, self), self.unflatten(x))

    def flat_map(self, change: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A map of number, time and structure to a structure as one of (N, D)."""
        return lambda k, t, x: self.flatten(change(k, _time(t, self), self.unflatten(x)), "the state after an event")

    def beside(self, values: list[Tensor], x: list[Tensor], name: str) -> Tensor:
        """A value of every part, such as its λ, as one of (N, D): (1, D) or (N, D).

        Args:
            values: the values, each of which broadcasts to its part.
            x: the parts of the state.
            name: what they are, for an error.

        Raises:
            ValueError: a value does not broadcast to its part.
        """
        rows = []
        for given, value, part in zip(values, x, self.parts, strict=True):
            require_broadcast(given, value, f"{name} of part {part.name}")
            whole = given.reshape(*[1] * (value.ndim - given.ndim), *given.shape)
            row = whole.expand(len(whole), *part.shape).reshape(len(whole), -1)
            rows.append(row.repeat_interleave(2, 1) if part.is_complex else row)
        n = max(len(row) for row in rows)
        return torch.cat([row.expand(n, -1) for row in rows], 1)


class Flat(NamedTuple):
    """A problem with a structured state as one with a state (N, D)."""

    func: DampedODEFunc
    x: Tensor
    layout: Layout

    def tolerance(self, value: Any, name: str) -> float | Tensor:
        """A tolerance for (N, D): one number for all parts as it is, a value for each part as (1, D) or (N, D).

        Args:
            value: the tolerance.
            name: rtol or atol, for an error.

        Raises:
            ValueError: it has another structure than the state, or does not broadcast to a part.
        """
        if isinstance(value, float | int):
            return value
        given, names = dict(_leaves(value, name, kind=(float, int, Tensor))), [part.name for part in self.layout.parts]
        if list(given) != names:
            raise ValueError(
                f"{name} must be one number, or have a value for every part of the state, {names}, got {value!r}"
            )
        parts = self.layout.values(self.x)
        beside = [torch.as_tensor(given[name], dtype=self.x.dtype, device=self.x.device) for name in names]
        return self.layout.beside(beside, parts, name)


def flattened(func: DampedODEFunc, x: Structure) -> Flat:
    """The damped vector field and the state, laid out as (N, D). The parameters stay the same tensors."""
    require_instance(func, DampedODEFunc, "func", "wrap f in DampedODEFunc(f, damping)")
    layout = Layout(x)
    return Flat(
        DampedODEFunc(_FlatField(func.f, layout), _FlatDamping(func.damping, layout), func.rho),
        layout.flatten(x),
        layout,
    )


class _FlatField(VectorField):
    """f of a structure as f of (N, D)."""

    def __init__(self, f: VectorField, layout: Layout) -> None:
        super().__init__()
        self.f, self._layout = f, layout

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t), (N, D). f gets a time per sample in a shape that broadcasts to all parts, if they have one rank."""
        return self._layout.flatten(self.f(_time(t, self._layout), self._layout.unflatten(x)), "f(t, x)")

    def breaks(self) -> Tensor | None:
        """Those of f."""
        return self.f.breaks()

    def callback(self, name: str) -> Callable[..., None] | None:
        """That of f, which gets the structure. One of the adjoint gets it twice, in the place of x and ∂L/∂x."""
        found, put_back = self.f.callback(name), self._layout.unflatten
        if found is None:
            return None

        def called(t: Tensor, x: Tensor | tuple[Tensor, ...], dt: Tensor) -> None:
            found(t, put_back(x) if isinstance(x, Tensor) else (x[0], put_back(x[1]), put_back(x[2]), *x[3:]), dt)

        return called


class _FlatDamping(Damping):
    """λ of a structure as λ of (N, D): one damping for every part, or the same for all."""

    def __init__(self, damping: Damping, layout: Layout) -> None:
        super().__init__()
        self.damping, self._layout = damping, layout
        self.depends_on_state, self.depends_on_time = damping.depends_on_state, damping.depends_on_time
        names = [part.name for part in layout.parts]
        given = dict(_leaves(damping.structure, "PerPart", kind=Damping)) if isinstance(damping, PerPart) else {}
        if given and list(given) != names:
            raise ValueError(f"PerPart must have a damping for every part of the state, {names}, got {list(given)}")
        self._dampings = [given.get(name, damping) for name in names]
        for part, each in zip(layout.parts, self._dampings, strict=True):
            if part.is_complex and each.depends_on_state:
                raise ValueError(
                    f"λ of a complex part must not depend on the state, got {type(each).__name__} for part "
                    f"{part.name}; take Constant or Learned, or a state of real parts"
                )

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ, (1, D) or (N, D)."""
        parts = [value.real if value.is_complex() else value for value in self._layout.values(x)]
        times = _time(t, self._layout)
        lams = [damping(times, part) for damping, part in zip(self._dampings, parts, strict=True)]
        return self._layout.beside(lams, parts, "λ")


def _time(t: float | Tensor, layout: Layout) -> float | Tensor:
    """A time per sample in the rank of the parts, if that is one; else (N, 1)."""
    ranks = {len(part.shape) for part in layout.parts}
    if not isinstance(t, Tensor) or t.ndim == 0 or len(ranks) > 1:
        return t
    return t.reshape(-1, *[1] * ranks.pop())


def _leaves(x: Any, what: str, name: str = "", kind: type | tuple[type, ...] = Tensor) -> Iterator[tuple[str, Any]]:
    """The leaves of a structure, with their names, in order."""
    if isinstance(x, kind):
        yield name, x
    elif type(x) in (tuple, list):
        for n, value in enumerate(x):
            yield from _leaves(value, what, f"{name}[{n}]", kind)
    elif type(x) is dict:
        for key in sorted(x, key=str):
            yield from _leaves(x[key], what, f"{name}[{key!r}]", kind)
    else:
        raise TypeError(
            f"{what} must be a tensor, or a tuple, list or dict of tensors, got {type(x).__name__}"
            + (f" at {name}" if name else "")
        )


def _rebuilt(template: Any, values: Iterator[Tensor]) -> Any:
    """The structure of the template with other leaves, which are taken in order."""
    if type(template) is tuple:
        return tuple(_rebuilt(value, values) for value in template)
    if type(template) is list:
        return [_rebuilt(value, values) for value in template]
    if type(template) is dict:
        found = {key: _rebuilt(template[key], values) for key in sorted(template, key=str)}
        return {key: found[key] for key in template}
    return next(values)


def _outline(x: Any) -> str:
    """A structure in words: its types and the shapes of its tensors."""
    if isinstance(x, Tensor):
        return str(tuple(x.shape))
    if type(x) is dict:
        return "{" + ", ".join(f"{key!r}: {_outline(value)}" for key, value in x.items()) + "}"
    if type(x) in (tuple, list):
        inside = ", ".join(_outline(value) for value in x)
        return f"[{inside}]" if type(x) is list else f"({inside},)"
    return type(x).__name__


def _real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers; a real one as it is. view_as_real takes no gradient of odd offset."""
    return torch.stack((x.real, x.imag), -1) if x.is_complex() else x


def _shaped(value: Tensor, part: Part) -> Tensor:
    """A flat part (..., N, d) in its own shape, (..., N, *S)."""
    if part.is_complex:
        return torch.complex(*value.reshape(*value.shape[:-1], *part.shape, 2).unbind(-1))
    return value.reshape(*value.shape[:-1], *part.shape)


def _require_alike(leaves: list[tuple[str, Tensor]]) -> None:
    """Raise unless the parts of a state have the same samples, precision and device."""
    if not leaves:
        raise ValueError("a state must hold a tensor, got a structure without any")
    for name, value in leaves:
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(f"the parts of a state must be floating or complex, got {value.dtype} in part {name}")
        if value.ndim == 0 or value.numel() == 0:
            raise ValueError(
                f"the parts of a state must be (N, *S_i) and not empty, got shape {tuple(value.shape)} in part {name}"
            )
    (first, like), precision = leaves[0], leaves[0][1].real.dtype
    for name, value in leaves[1:]:
        if len(value) != len(like):
            raise ValueError(
                f"the parts of a state must have the same samples, got {len(like)} in part {first} and {len(value)} in "
                f"part {name}"
            )
        if value.real.dtype != precision or value.device != like.device:
            raise TypeError(
                f"the parts of a state must have one precision and one device, got {like.dtype} on {like.device} in "
                f"part {first} and {value.dtype} on {value.device} in part {name}"
            )
