"""A continuous-depth network on a series with fast and slow modes: AdaptiveExponential beside torchdiffeq's dopri5.

    python examples/stiff_neural_ode.py

The data are slow waves that a stiff relaxation follows: y' = −1000 (y − slow(t)) for the fast half of the channels. A
damped block with a learned MLP, and λ = 1000 on those channels, is trained to predict the end of the series from its
start. Both solvers train the same network from the same weights at the same tolerance. The script asserts that training
lowers the loss, that the losses of both solvers agree, and that the exponential solver needs less than a tenth of the
calls of f.
"""

import time

import torch
from torch import nn

from dampode import DampedBlock
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, Integrator, TorchDiffEq

CHANNELS, FAST = 8, 1000.0


class Field(VectorField):
    """An MLP of the state and of time. It is large on the fast channels, so that their equilibria are of order 1."""

    gain: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(CHANNELS + 2, 32), nn.Tanh(), nn.Linear(32, CHANNELS))
        self.register_buffer("gain", torch.where(torch.arange(CHANNELS) < CHANNELS // 2, 1.0, FAST))

    def forward(self, t: float | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """f(x, t)."""
        clock = torch.as_tensor(t, dtype=x.dtype).expand(len(x), 1)
        out: torch.Tensor = self.net(torch.cat((x / (1 + self.gain / 100), torch.sin(clock), torch.cos(clock)), 1))
        return self.gain * out


def series(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end of n series: slow channels turn by one radian, fast channels relax to the squares of slow ones."""
    phase = torch.rand(n, CHANNELS // 2) * 2 * torch.pi
    start = torch.cat((torch.sin(phase), torch.randn(n, CHANNELS // 2)), 1)
    slow = torch.sin(phase + 1.0)
    return start, torch.cat((slow, slow**2), 1)


def train(integrator: Integrator, rounds: int) -> tuple[list[float], int, float]:
    """Losses, calls of f and seconds."""
    torch.manual_seed(0)
    lam = torch.where(torch.arange(CHANNELS) < CHANNELS // 2, 1.0, FAST)
    block = DampedBlock(Field(), Constant(lam), integrator=integrator)
    x, y = series(64)
    optimizer = torch.optim.Adam(block.parameters(), lr=0.03)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    block.func.f.register_forward_hook(count)
    losses, begun = [], time.perf_counter()
    for _ in range(rounds):
        loss = (block(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, calls, time.perf_counter() - begun


def main() -> None:
    rows = {
        "AdaptiveExponential": (AdaptiveExponential(rtol=1e-3, atol=1e-3), 80),
        "torchdiffeq dopri5": (TorchDiffEq("dopri5", rtol=1e-3, atol=1e-3), 2),
    }
    print(f"{'':22}{'rounds':>8}{'calls per round':>17}{'s per round':>13}{'first loss':>12}{'last loss':>11}")
    results = {}
    for name, (integrator, rounds) in rows.items():
        losses, calls, seconds = results[name] = train(integrator, rounds)
        print(
            f"{name:22}{rounds:8}{calls / rounds:17.0f}{seconds / rounds:13.3f}{losses[0]:12.4f}{losses[-1]:11.4f}",
            flush=True,
        )
    ours, theirs = results["AdaptiveExponential"], results["torchdiffeq dopri5"]
    assert ours[0][-1] < 0.7 * ours[0][0], "training lowers the loss"
    for a, b in zip(ours[0], theirs[0], strict=False):
        assert abs(a - b) < 0.02 * b, "the same network has the same loss under both solvers"
    assert ours[1] / len(ours[0]) < 0.1 * theirs[1] / len(theirs[0]), "less than a tenth of the calls of f"


if __name__ == "__main__":
    main()
