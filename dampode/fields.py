"""Vector fields f(x, t): the abstract class, the wrapper of a plain callable, and the residual branches."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from dampode._checks import first_tensor, name_of, require_instance, require_positive_int
from dampode.paths import Path, breaks_in

__all__ = [
    "Autonomous",
    "Branch",
    "Driven",
    "PreActBasic",
    "PreActBottleneck",
    "ResNeXtBranch",
    "TimeDependent",
    "VectorField",
    "as_field",
]


class VectorField(nn.Module, ABC):
    """f of Eq. 4 if it depends on time: subclass this and write ``forward(t, x)``.

    Every call must return a new tensor, because a step keeps the values of its stages; a buffer that the next call
    fills again would change them. Under integrators with a step size per sample, f must act on each sample by itself,
    at that sample's time. The nodes of a graph are one sample: give them as x[None].
    """

    @abstractmethod
    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t): x (N, *S) -> (N, *S); t is a float, a 0-dim tensor or, with per-sample steps, (N, 1, ..., 1)."""

    def breaks(self) -> Tensor | None:
        """Times at which f is discontinuous in t or has a kink, (J,) or (N, J), NaN as padding; None if there are none.

        A solve to a tolerance or with fixed steps stops exactly at those inside it, and starts anew. The default gives
        those of the paths in f.
        """
        return breaks_in(self)

    def callback(self, name: str) -> Callable[..., None] | None:
        """The callback for torchdiffeq of this name, such as ``callback_step(t, x, dt)``: the method, or None."""
        found: Callable[..., None] | None = getattr(self, name, None)
        return found


class _FromCallable(VectorField):
    """A vector field from another callable f."""

    f: Callable[..., Tensor]

    def callback(self, name: str) -> Callable[..., None] | None:
        """That of f."""
        return self.f.callback(name) if isinstance(self.f, VectorField) else getattr(self.f, name, None)

    def extra_repr(self) -> str:
        """The name of f if it is not a module."""
        return "" if isinstance(self.f, nn.Module) else name_of(self.f)


class Autonomous(_FromCallable):
    """f that does not depend on time: f(x, t) = f(x).

    Args:
        f: any callable of the state alone; a module is registered with its parameters.

    Raises:
        TypeError: f is not callable.
    """

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be callable, got {type(f).__name__}")
        self.f = f

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x). A TypeError of f is raised again with the way to write f(t, x)."""
        try:
            return self.f(x)
        except TypeError as error:
            remedy = (
                _wrapper_remedy(self.f) or "for f(t, x) write dampode.fields.TimeDependent(f), or subclass VectorField"
            )
            raise TypeError(
                f"f must be a callable of the state alone, got an f that raises in f(x): {error}; {remedy}"
            ) from error


class TimeDependent(_FromCallable):
    """f from a callable f(t, x), such as a module that was written for torchdiffeq.

    f gets t as a tensor: 0-dim, or (N, 1, ..., 1) with a step size per sample.

    Args:
        f: any callable of time and state; a module is registered with its parameters.

    Raises:
        TypeError: f is not callable.
    """

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be callable as f(t, x), got {type(f).__name__}")
        self.f = f

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(t, x). An error of f with a time per sample gets a note that says what t is."""
        if not isinstance(t, Tensor):
            t = torch.full((), t, dtype=x.dtype, device=x.device)
        try:
            return self.f(t, x)
        except (RuntimeError, ValueError) as error:
            if t.ndim > 0:
                error.add_note(
                    f"f got t of shape {tuple(t.shape)}, a time per sample, as an integrator with a step size per "
                    "sample gives it; let f broadcast t to x, or take TorchDiffEq or a fixed step, which give t as ()"
                )
            raise


class Driven(_FromCallable):
    """f with an input: f(x, t, u(t)), where u is a path between observations.

    Solves to a tolerance and fixed steps stop at every break of the path, so they miss no pulse, however short.

    Args:
        f: a callable of (t, x, u), with u (N, C) in x's dtype; a module is registered with its parameters.
        path: u(t), from `dampode.paths`. It has a row per sample, or one row for all.

    Raises:
        TypeError: f is not callable, or path is no `Path`.
        ValueError: in a call, the path has another number of samples than x.
    """

    def __init__(self, f: Callable[[float | Tensor, Tensor, Tensor], Tensor], path: Path) -> None:
        super().__init__()
        if not callable(f):
            raise TypeError(f"f must be a callable of (t, x, u), got {type(f).__name__}")
        require_instance(path, Path, "path", "make it by Held, Linear or Hermite of dampode.paths")
        self.f = f
        self.path = path

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t, u(t))."""
        samples, like = len(self.path.first), first_tensor(x).real
        if samples not in (1, len(like)):
            raise ValueError(
                f"a path must have the samples of the state, or one row for all, got a path of {samples} samples and a "
                f"state of {len(like)}"
            )
        return self.f(t, x, self.path(t).to(like).expand(len(like), -1))


def _wrapper_remedy(f: object) -> str:
    """What to do if f is another module around a `VectorField`; empty if it is none."""
    if not isinstance(f, nn.Module) or not any(isinstance(part, VectorField) for part in f.children()):
        return ""
    return (
        f"f is a {type(f).__name__} around a VectorField and is no VectorField itself, so it is called with the state "
        "alone. Wrap inside or outside of it: f.compile() instead of torch.compile(f); DistributedDataParallel and "
        "AveragedModel around the whole block or model"
    )


def as_field(f: VectorField | Callable[[Tensor], Tensor]) -> VectorField:
    """Return f itself if it is a `VectorField`. Else f is a callable of x alone: return it wrapped in `Autonomous`."""
    return f if isinstance(f, VectorField) else Autonomous(f)


class Branch(Protocol):
    """A class of residual branches, as the network builders use it."""

    @property
    def expansion(self) -> int:
        """Channels of the state divided by the width of the branch's 3x3 convolutions."""

    @property
    def convolutions(self) -> int:
        """Number of convolutions, which count towards a network's depth."""

    def __call__(self, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """The branch: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""


class PreActBasic(nn.Sequential):
    """The branch of a pre-activation basic block: BN, ReLU, conv3x3 (stride), BN, ReLU, conv3x3.

    Args:
        in_channels, out_channels: number of channels before and after.
        stride: stride of the first convolution.

    Raises:
        ValueError: a size is below 1.

    Source: He et al. 2016, Identity mappings in deep residual networks.
    """

    expansion = 1
    convolutions = 2

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        _require_sizes(in_channels, out_channels, stride)
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )


class PreActBottleneck(nn.Sequential):
    """The branch of a pre-activation bottleneck: BN, ReLU and a convolution, three times: 1x1, 3x3 (stride), 1x1.

    Args:
        in_channels, out_channels: number of channels before and after; the 3x3 convolution has out_channels / 4.
        stride: stride of the 3x3 convolution.

    Raises:
        ValueError: a size is below 1, or out_channels is not a multiple of 4.

    Source: He et al. 2016, Identity mappings in deep residual networks.
    """

    expansion = 4
    convolutions = 3

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        _require_sizes(in_channels, out_channels, stride)
        inner = _quarter(out_channels)
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
        )


class ResNeXtBranch(nn.Sequential):
    """The branch of a ResNeXt block: conv1x1, BN, ReLU, grouped conv3x3 (stride), BN, ReLU, conv1x1, BN.

    The ReLU after the sum is not part of it.

    Args:
        in_channels, out_channels: number of channels before and after; each group has out_channels / 4.
        stride: stride of the 3x3 convolution.
        cardinality: number of groups.

    Raises:
        ValueError: a size is below 1, or out_channels is not a multiple of 4.

    Source: Xie et al. 2017, Aggregated residual transformations for deep neural networks, Fig. 3c.
    """

    expansion = 4
    convolutions = 3

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, cardinality: int = 8) -> None:
        _require_sizes(in_channels, out_channels, stride)
        require_positive_int(cardinality, "cardinality")
        inner = cardinality * _quarter(out_channels)
        super().__init__(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=cardinality, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )


def _require_sizes(in_channels: int, out_channels: int, stride: int) -> None:
    """Raise unless the sizes of a branch are positive ints."""
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("stride", stride)):
        require_positive_int(value, name)


def _quarter(out_channels: int) -> int:
    """out_channels / 4, or a worded error."""
    if out_channels % 4:
        raise ValueError(f"out_channels of a bottleneck must be a multiple of 4, got {out_channels}")
    return out_channels // 4
