"""The vector fields of the solver benchmarks; the calls of f, the seconds and the error of a solve."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dampode import DampedODEFunc
from dampode.damping import Constant, Matrix
from dampode.fields import Autonomous, TimeDependent, VectorField
from dampode.weighting import Weighting, unit

__all__ = [
    "ForcedConv",
    "ForcedMLP",
    "Problem",
    "arenstorf",
    "brusselator",
    "brusselator_with_matrix",
    "conv",
    "counted",
    "error",
    "lorenz",
    "lotka_volterra",
    "mlp",
    "pulse",
    "times",
    "van_der_pol",
]


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


def mlp(
    lam: float | Tensor, rho: Weighting = unit, batch: int = 256, d: int = 64, seed: int = 0, gain: float = 1.0
) -> Problem:
    """MLP field: d = 64, batch 256; float64. ``gain`` scales the weights."""
    torch.manual_seed(seed)
    f, x = ForcedMLP(d, d, gain).double(), torch.randn(batch, d, dtype=torch.float64)
    return Problem("MLP", DampedODEFunc(f, Constant(lam), rho), x, times())


def conv(lam: float, rho: Weighting = unit, batch: int = 32, seed: int = 0) -> Problem:
    """Convolutional field: 16 channels, 16x16, batch 32; float64."""
    torch.manual_seed(seed)
    f, x = ForcedConv(16).double(), torch.randn(batch, 16, 16, 16, dtype=torch.float64)
    return Problem("conv", DampedODEFunc(f, Constant(lam), rho), x, times())


def lotka_volterra(batch: int = 16) -> Problem:
    """Predators y and prey x: x' = 1.5 x − x y, y' = x y − 3 y over about two periods; λ = 0, float64."""

    def rate(x: Tensor) -> Tensor:
        prey, predators = x.unbind(1)
        return torch.stack((1.5 * prey - prey * predators, prey * predators - 3 * predators), 1)

    return Problem("Lotka-Volterra", _undamped(rate), _around((2.0, 1.0), batch), _even(6.0))


def van_der_pol(mu: float = 5.0, batch: int = 16) -> Problem:
    """Van der Pol's oscillator, y'' = μ (1 − y²) y' − y over a period and more of μ = 5; λ = 0, float64."""

    def rate(x: Tensor) -> Tensor:
        y, v = x.unbind(1)
        return torch.stack((v, mu * (1 - y * y) * v - y), 1)

    return Problem("Van der Pol", _undamped(rate), _around((2.0, 0.0), batch), _even(12.0))


def arenstorf() -> Problem:
    """A satellite of earth and moon in the rotating frame, one period; λ = 0, float64, one sample.

    Source: Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, Sec. II.0.
    """
    moon = 0.012277471
    earth = 1 - moon

    def rate(x: Tensor) -> Tensor:
        a, b, va, vb = x.unbind(1)
        to_earth, to_moon = ((a + moon) ** 2 + b * b) ** 1.5, ((a - earth) ** 2 + b * b) ** 1.5
        pull_a = earth * (a + moon) / to_earth + moon * (a - earth) / to_moon
        pull_b = earth * b / to_earth + moon * b / to_moon
        return torch.stack((va, vb, a + 2 * vb - pull_a, b - 2 * va - pull_b), 1)

    start = torch.tensor([[0.994, 0.0, 0.0, -2.00158510637908252240537862224]], dtype=torch.float64)
    return Problem("Arenstorf", _undamped(rate), start, _even(17.0652165601579625588917206249))


def lorenz(batch: int = 16) -> Problem:
    """The Lorenz system (σ, ρ, β) = (10, 28, 8/3) up to t = 3, where errors have grown a few hundred times; λ = 0."""

    def rate(x: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return torch.stack((10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c), 1)

    return Problem("Lorenz", _undamped(rate), _around((1.0, 1.0, 20.0), batch), _even(3.0))


def brusselator(split: bool, points: int = 32, batch: int = 4) -> Problem:
    """u_t = 1 + u²v − 4u + α u_xx, v_t = 3u − u²v + α v_xx, α = 1/50, with second differences; float64.

    Args:
        split: whether λ holds the diagonal of the linear part, 4 + 2α/Δx² and 2α/Δx²; otherwise λ = 0.
        points: inside (0, 1), with u = 1 and v = 3 at its ends.
        batch: number of samples.

    Source: Hairer & Wanner, Solving Ordinary Differential Equations II, Sec. IV.1.
    """
    stiffness = 0.02 * (points + 1) ** 2
    lam = 2 * stiffness + torch.tensor([4.0, 0.0], dtype=torch.float64)[:, None].expand(2, points)

    def rate(x: Tensor) -> Tensor:
        around = torch.nn.functional.pad(x, (1, 1)) + _brusselator_ends(x)
        spread = stiffness * (around[:, :, 2:] + around[:, :, :-2])  # diffusion without its diagonal
        driven = spread + _brusselator_reaction(x)
        return driven if split else driven - lam * x

    damping = Constant(lam if split else 0.0)
    return Problem("Brusselator", DampedODEFunc(Autonomous(rate), damping), _waves(points, batch), _even(10.0))


def brusselator_with_matrix(points: int = 32, batch: int = 4) -> Problem:
    """The `brusselator` with its diffusion as a damping matrix."""
    stiffness = 0.02 * (points + 1) ** 2
    beside = torch.diag(torch.ones(points - 1, dtype=torch.float64), 1)
    matrix = stiffness * (2 * torch.eye(points, dtype=torch.float64) - beside - beside.T)

    def rate(x: Tensor) -> Tensor:
        ends = _brusselator_ends(x)
        reaction = _brusselator_reaction(x) - torch.tensor([[4.0], [0.0]], dtype=x.dtype) * x
        return reaction + stiffness * (ends[:, :, 2:] + ends[:, :, :-2])

    func = DampedODEFunc(Autonomous(rate), Matrix(matrix))
    return Problem("Brusselator", func, _waves(points, batch), _even(10.0))


def _brusselator_reaction(x: Tensor) -> Tensor:
    """1 + u²v and 3u − u²v, (N, 2, n)."""
    u, v = x.unbind(1)
    reaction = u * u * v
    return torch.stack((1 + reaction, 3 * u - reaction), 1)


def _brusselator_ends(x: Tensor) -> Tensor:
    """U = 1 and v = 3 at both ends of (0, 1), and 0 inside, (1, 2, n + 2)."""
    ends = torch.zeros(1, 2, x.shape[2] + 2, dtype=x.dtype)
    ends[:, :, 0] = ends[:, :, -1] = torch.tensor([1.0, 3.0], dtype=x.dtype)
    return ends


def _waves(points: int, batch: int) -> Tensor:
    """U = 1 + a sin(2πs) with a from 1/2 to 1, and v = 3, (batch, 2, points)."""
    place = torch.linspace(0.0, 1.0, points + 2, dtype=torch.float64)[1:-1]
    u = 1 + torch.linspace(0.5, 1.0, batch, dtype=torch.float64)[:, None] * torch.sin(2 * math.pi * place)
    return torch.stack((u, torch.full_like(u, 3.0)), 1)


def pulse(lam: float, batch: int = 16) -> Problem:
    """A pulse of f: x' = −λ x + tanh(W x) + 5 e^{−((t − 0.5)/0.05)²} on 4 numbers; float64."""
    torch.manual_seed(0)
    w, x = torch.randn(4, 4, dtype=torch.float64), torch.randn(batch, 4, dtype=torch.float64)

    def rate(t: float | Tensor, x: Tensor) -> Tensor:
        time = torch.as_tensor(t, dtype=x.dtype)
        return torch.tanh(x @ w) + 5 * torch.exp(-(((time - 0.5) / 0.05) ** 2))

    return Problem("pulse", DampedODEFunc(TimeDependent(rate), Constant(lam)), x, times())


def _undamped(rate: Callable[[Tensor], Tensor]) -> DampedODEFunc:
    """The field x' = rate(x), as Eq. 4 with λ = 0."""
    return DampedODEFunc(Autonomous(rate), Constant(0.0))


def _around(x: tuple[float, ...], batch: int) -> Tensor:
    """Initial states within 20 % of a given one, which is the first, (batch, D)."""
    generator = torch.Generator().manual_seed(0)
    shift = 0.4 * torch.rand(batch, len(x), generator=generator, dtype=torch.float64) - 0.2
    shift[0] = 0.0
    return torch.tensor(x, dtype=torch.float64) * (1 + shift)


def _even(end: float) -> Tensor:
    """20 equal parts of [0, end]."""
    return torch.linspace(0.0, end, 21, dtype=torch.float64)


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
