"""Damping coefficients λ(t, x): constant, learned or gated by the state, λ = act(d(x)) of Eq. 21."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dampode._checks import (
    name_of,
    require_damping_values,
    require_instance,
    require_nonnegative,
    require_positive_int,
    require_real,
    require_square_matrix,
)

__all__ = ["Activation", "Constant", "Damping", "Gated", "Learned", "Matrix", "PerPart"]

Activation = Callable[[Tensor], Tensor]
"""Maps to λ >= 0, elementwise."""


class Damping(nn.Module, ABC):
    """λ of Eq. 4 as a module: (t, x) -> λ >= 0 that broadcasts to x (N, *S), in x's dtype and on its device.

    A subclass says what λ is a function of. If it is a function of neither time nor state, an integrator computes it
    once for a whole solve.
    """

    depends_on_state: bool
    """Whether λ is a function of x."""
    depends_on_time: bool
    """Whether λ is a function of t, or of an input u(t)."""
    is_complex: bool = False
    """Whether λ and the state are complex."""

    @abstractmethod
    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ at time t and state x; t is a float, a 0-dim tensor or, with per-sample steps, (N, 1, ..., 1)."""

    @property
    def varies(self) -> bool:
        """Whether λ is a function of the state or of time."""
        return self.depends_on_state or self.depends_on_time


class Constant(Damping):
    """λ fixed, not trained: d(x) = value, act = identity.

    Args:
        value: a float >= 0, or a floating tensor >= 0 that broadcasts to the state from its last axis on: (), (N, 1, 1,
            1), or (C, 1, 1) for the channels of an image, where (C,) would damp its columns. A float stays a float, so
            that it loses no precision in the state's dtype. A tensor becomes a buffer.

    Raises:
        ValueError: λ is negative, NaN or infinite.
        TypeError: the value is neither a number nor a floating tensor.

    Source: Yang et al. 2020, Eq. 4.
    """

    depends_on_state: bool = False
    depends_on_time: bool = False
    value: float | Tensor

    def __init__(self, value: float | Tensor) -> None:
        super().__init__()
        if isinstance(value, Tensor):
            require_damping_values(value)
            self.register_buffer("value", value.detach().clone())
        else:
            require_nonnegative(value, "λ")
            self.value = float(value)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The constant, in x's dtype and on its device."""
        if isinstance(self.value, Tensor):
            return self.value.to(dtype=x.dtype, device=x.device)
        if self.value > torch.finfo(x.dtype).max:
            raise ValueError(f"λ must fit the state's dtype, got {self.value:g} for {x.dtype}; use float32")
        return torch.full((), self.value, dtype=x.dtype, device=x.device)  # as_tensor would copy from the host

    def extra_repr(self) -> str:
        """The value, or its shape."""
        return f"shape={tuple(self.value.shape)}" if isinstance(self.value, Tensor) else f"{self.value!r}"


class Learned(Damping):
    """λ trained: λ = act(anchor + raw), with anchor + raw ~ U[low, high] at the start.

    With act = relu these are the coefficients of In-ResNet, with act = sigmoid those of In-ResNet-sig.

    Weight decay pulls ``raw`` to 0, and so λ to act(anchor). The default anchor is 0 for every network. It pulls λ
    towards act(0), which is 0 for relu, as decay would pull the λ that the paper prints. The authors' In-ResNet code
    stores k = 1 − λ, so there decay pulls λ to 1. Set ``anchor=1.0`` to reproduce that. Their code for λ-In-ResNet has
    anchor 0. relu has no gradient at and below 0: a λ that has reached 0 stays there.

    Args:
        low, high: range of anchor + raw at the start, before act; for relu it is the range of λ itself.
        act: maps to λ >= 0, elementwise.
        anchor: the value of anchor + raw to which weight decay pulls.
        shape: shape of λ, which broadcasts to the state from its last axis on. () is one λ per layer. For one λ per
            channel it is (C, 1, 1) for images, where (C,) would damp the columns, and (C,) for states (N, C) or tokens
            (N, T, C).

    Raises:
        ValueError: low > high, a bound or the anchor is not finite, act gives a negative λ somewhere in [−10, 10], or λ
            could start at 0, where act has no gradient.
        TypeError: act is not callable.

    Source: Yang et al. 2020, Eqs. 13, 15, 21.
    """

    depends_on_state: bool = False
    depends_on_time: bool = False

    def __init__(
        self,
        low: float = 0.2,
        high: float = 0.25,
        act: Activation = torch.relu,
        anchor: float = 0.0,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        _require_range(low, high)
        require_real(anchor, "anchor")
        _require_activation(act)
        dead = (act(torch.linspace(low, high, 1001, device="cpu")[1:]) <= 0).double().mean().item()
        if dead:
            raise ValueError(
                f"λ must start above 0, where act has a gradient, got act of [{low}, {high}], which is 0 in {dead:.1%} "
                "of the range; raise low"
            )
        self.act = act
        self.anchor = float(anchor)
        self.raw = nn.Parameter(torch.empty(shape).uniform_(low, high) - anchor)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The trained λ, in x's dtype and on its device."""
        return self.act(self.anchor + self.raw).to(dtype=x.dtype, device=x.device)

    def extra_repr(self) -> str:
        """Activation, anchor and shape."""
        return f"act={name_of(self.act)}, anchor={self.anchor:g}, shape={tuple(self.raw.shape)}"


class Gated(Damping):
    """λ gated by the state: λ(x) = act(W_d x + b_d), W_d mixing the channels at every position (a 1x1 convolution).

    With act = relu this is In-ResNet-gating. With act = sigmoid it is In-ResNet-gating-sig, the shortcut-only gate of
    He et al. 2016 (Identity mappings). λ has the shape of the state. The paper does not say the shape of W_d.

    Args:
        channels: number of channels C of the state.
        act: maps to λ >= 0, elementwise.
        pooled: whether W_d reads the mean of the state over positions. λ is then one number per channel.
        start: None starts W_d and b_d as PyTorch does. (low, high) starts with W_d = 0 and b_d ~ U[low, high]: λ then
            starts in [act(low), act(high)] for every state, where a relu gate on a large state could start unstable.
        dim: axis of the channels: 1 for states (N, C, *positions), −1 for tokens (N, T, C).

    Raises:
        ValueError: channels is below 1, start is not a finite range with low <= high, dim is 0 (the batch), or act
            gives a negative λ somewhere in [−10, 10]; in forward, the state has another number of channels there.
        TypeError: act is not callable, or dim is not an int.

    Source: Yang et al. 2020, Eq. 21 and Sec. 4.4.
    """

    depends_on_state: bool = True
    depends_on_time: bool = False

    def __init__(
        self,
        channels: int,
        act: Activation = torch.sigmoid,
        pooled: bool = False,
        start: tuple[float, float] | None = None,
        dim: int = 1,
    ) -> None:
        super().__init__()
        require_positive_int(channels, "channels")
        require_instance(pooled, bool, "pooled")
        require_instance(dim, int, "dim")
        if dim == 0:
            raise ValueError("dim must be the axis of the channels, got 0, the batch; use 1, or -1 for (N, T, C)")
        _require_activation(act)
        self.act = act
        self.pooled = pooled
        self.dim = dim
        self.gate = nn.Linear(channels, channels)
        if start is not None:
            low, high = start
            _require_range(low, high)
            nn.init.zeros_(self.gate.weight)
            nn.init.uniform_(self.gate.bias, low, high)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """λ(x), in the shape of x; if pooled, every position's axis has length 1."""
        channels = self.gate.in_features
        if self.dim not in range(1 - x.ndim, x.ndim) or x.shape[self.dim] != channels:
            raise ValueError(
                f"Gated({channels}) needs a state of {channels} channels on axis {self.dim}, got shape "
                f"{tuple(x.shape)}; dim says which axis holds them: 1 for (N, C, *positions), -1 for (N, T, C)"
            )
        positions = [axis for axis in range(1, x.ndim) if axis != self.dim % x.ndim]
        read = x.mean(positions, keepdim=True) if self.pooled and positions else x
        return self.act(self.gate(read.movedim(self.dim, -1)).movedim(-1, self.dim)).to(x.dtype)

    def extra_repr(self) -> str:
        """Activation, whether pooled, and the axis if it is not 1."""
        axis = "" if self.dim == 1 else f", dim={self.dim}"
        return f"act={name_of(self.act)}, pooled={self.pooled}{axis}"


class PerPart(Damping):
    """λ of a state of several tensors, part by part.

    Args:
        structure: dampings in the structure of the state: a tuple, list or dict of them.

    Raises:
        TypeError: the structure holds something else.
        ValueError: in a solve, the state has another structure, or a λ does not fit its part.
    """

    def __init__(self, structure: tuple[Any, ...] | list[Any] | dict[str, Any]) -> None:
        super().__init__()
        require_instance(structure, (tuple, list, dict), "structure", "one damping for all parts needs no PerPart")
        self.structure = structure
        self.dampings = nn.ModuleList(_dampings(structure))
        self.depends_on_state = any(damping.depends_on_state for damping in _dampings(structure))
        self.depends_on_time = any(damping.depends_on_time for damping in _dampings(structure))

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """Refuse a state of one tensor."""
        raise TypeError(
            f"PerPart is for a state that is a tuple, list or dict, got a tensor of shape {tuple(x.shape)}; take the "
            "damping alone"
        )


class Matrix(Damping):
    """A full damping matrix: dx/dt = −A x + f(x, t), with A on the last axis of the state, and ρ = 1.

    A solve decomposes A = V Λ V⁻¹ once, and exponential integrators solve for z = V⁻¹ x with the diagonal, perhaps
    complex damping Λ. Growth, Re Λ < 0, counts to f. A tolerance holds for z, with columns of V of norm 1: the error of
    x may be larger by V's condition number. Other integrators solve dx/dt = f − A x with λ = 0. A may be learned, but
    not with ``recompute=``, nor where eigenvalues coincide.

    Args:
        value: A, (D, D), real, or complex for a complex state. A parameter is trained; another tensor becomes a buffer.

    Raises:
        ValueError: A is not square or finite; in a solve, its eigenvectors are ill-conditioned, or ρ is not 1.
        TypeError: A is no floating or complex tensor.
    """

    depends_on_state: bool = False
    depends_on_time: bool = False
    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        require_square_matrix(value)
        self.value = value if isinstance(value, nn.Parameter) else nn.Buffer(value.detach().clone())

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """Refuse: a matrix is no λ for each number of the state."""
        raise TypeError(
            "damping.Matrix is for odeint, solve, odeint_event and DampedBlock, got a call for λ by element"
        )


def _dampings(structure: Any) -> list[Damping]:
    """The dampings in a structure."""
    if isinstance(structure, tuple | list):
        return [damping for part in structure for damping in _dampings(part)]
    if isinstance(structure, dict):
        return _dampings(list(structure.values()))
    require_instance(structure, Damping, "a part of PerPart", "wrap a number in Constant(value)")
    return [structure]


def _require_activation(act: Activation) -> None:
    """Raise unless act is callable and maps numbers to λ >= 0."""
    if not callable(act):
        raise TypeError(f"act must be callable, got {act!r}; pass a function such as torch.relu")
    require_damping_values(act(torch.linspace(-10, 10, 41, device="cpu")))


def _require_range(low: float, high: float) -> None:
    """Raise unless low and high are finite and in order."""
    require_real(low, "low")
    require_real(high, "high")
    if low > high:
        raise ValueError(f"low must not exceed high, got low={low}, high={high}")
