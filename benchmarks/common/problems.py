"""The vector fields of the solver benchmarks; the calls of f, the seconds and the error of a solve."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dampode import DampedODEFunc
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.weighting import Weighting, unit

__all__ = ["ForcedConv", "ForcedMLP", "Problem", "conv", "counted", "error", "mlp", "times"]


class ForcedMLP(VectorField):
    """W2 tanh(W1 x + sin(ω t + φ)): d -> hidden -> d, driven at frequencies 1 and 3."""

    omega: Tensor
    phase: Tensor

    def __init__(self, d: int, hidden: int, gain: float = 1.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(d, hidden), nn.Linear(hidden, d)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        self.register_buffer("omega", torch.tensor([1.0, 3.0]).repeat(hidden // 2))
        self.register_buffer("phase", torch.rand(hidden) * 2 * math.pi)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        driven: Tensor = self.inner(x) + torch.sin(self.omega * t + self.phase)
        change: Tensor = self.outer(torch.tanh(driven))
        return change


class ForcedConv(VectorField):
    """conv3x3(tanh(conv3x3(x) + sin(ω t + φ))), one frequency per channel."""

    omega: Tensor
    phase: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("omega", torch.linspace(1.0, 3.0, channels)[:, None, None])
        self.register_buffer("phase", torch.rand(channels, 1, 1) * 2 * math.pi)

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """f(x, t)."""
        driven: Tensor = self.inner(x) + torch.sin(self.omega * t + self.phase)
        change: Tensor = self.outer(torch.tanh(driven))
        return change


@dataclass(frozen=True)
class Problem:
    """A damped field, an initial state and the times at which errors are measured."""

    name: str
    func: DampedODEFunc
    x: Tensor
    t: Tensor


def mlp(lam: float | Tensor, rho: Weighting = unit, batch: int = 256, d: int = 64, seed: int = 0) -> Problem:
    """MLP field: d = 64, batch 256; float64."""
    torch.manual_seed(seed)
    f, x = ForcedMLP(d, d).double(), torch.randn(batch, d, dtype=torch.float64)
    return Problem("MLP", DampedODEFunc(f, Constant(lam), rho), x, times())


def conv(lam: float, rho: Weighting = unit, batch: int = 32, seed: int = 0) -> Problem:
    """Convolutional field: 16 channels, 16x16, batch 32; float64."""
    torch.manual_seed(seed)
    f, x = ForcedConv(16).double(), torch.randn(batch, 16, 16, 16, dtype=torch.float64)
    return Problem("conv", DampedODEFunc(f, Constant(lam), rho), x, times())


def times() -> Tensor:
    """Times in [0, 1]; three of them lie in the transient."""
    return torch.tensor([0.0, 1e-4, 1e-3, 1e-2, *[n / 10 for n in range(1, 11)]], dtype=torch.float64)


def counted(func: DampedODEFunc, run: Callable[[], object], limit: float = math.inf) -> tuple[int, float]:
    """Calls of f and seconds that ``run`` takes.

    Raises:
        TimeoutError: after ``limit`` seconds, at the next call of f.
    """
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        if time.perf_counter() - start > limit:
            raise TimeoutError

    hook = func.f.register_forward_hook(count)
    start = time.perf_counter()
    try:
        run()
    finally:
        hook.remove()
    return calls, time.perf_counter() - start


def error(xs: Tensor, exact: Tensor) -> float:
    """The largest relative error over all times: |x − x*| / |x*|, each a norm over the batch."""
    gap = (xs - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(gap[1:].nan_to_num(torch.inf).max())
