"""Vector fields f(x, t): the abstract class, the wrapper of a plain callable, and the residual branches."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from dampode._checks import require_positive_int


class VectorField(nn.Module, ABC):
    """f of Eq. 4 where it depends on time: subclass and write ``forward(t, x)``."""

    @abstractmethod
    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t): x (N, *S) -> (N, *S); t is a float, a 0-dim tensor or, with per-sample steps, (N, 1, ..., 1)."""


class Autonomous(VectorField):
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
        """f(x)."""
        return self.f(x)


def as_field(f: VectorField | Callable[[Tensor], Tensor]) -> VectorField:
    """Return f itself if it is a `VectorField`, else f as a callable of x alone, wrapped in `Autonomous`."""
    return f if isinstance(f, VectorField) else Autonomous(f)


class PreActBasic(nn.Sequential):
    """The branch of a pre-activation basic block: BN, ReLU, conv3x3 (stride), BN, ReLU, conv3x3.

    Args:
        in_channels, out_channels: C before and after.
        stride: of the first convolution.

    Source: He et al. 2016, Identity mappings in deep residual networks.
    """

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("stride", stride)):
            require_positive_int(value, name)
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
