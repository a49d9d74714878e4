"""A stiff neural ODE
==================

A network of continuous depth learns a series with fast and slow parts. The data are slow waves that a stiff
relaxation follows: y' = −1000 (y − slow(t)) for the fast half of the channels. A damped block with a learned MLP,
and λ = 1000 on those channels, is trained to predict the end of the series from its start.

ExponentialAdams and torchdiffeq's dopri5 train the same network from the same weights at the same tolerance. dopri5
gets more calls of f than ExponentialAdams needs for all its training, and still takes five steps only. The script
asserts that training lowers the loss, that the losses of both solvers agree, and that ExponentialAdams needs less
than a tenth of the calls of f per step.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from dampode import DampedBlock
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import ExponentialAdams, Integrator, TorchDiffEq

CHANNELS, FAST = 8, 1000.0

# %%
# The network and the data
# ------------------------
#
# The field is large on the fast channels, because the damping is large there.


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
        out: torch.Tensor = self.net(torch.cat((x / (1 + self.gain / 10), torch.sin(clock), torch.cos(clock)), 1))
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


# %%
# Both solvers train
# ------------------
#
# The rounds of dopri5 are few because each of them takes thousands of calls of f.

rows = {
    "ExponentialAdams": (ExponentialAdams(rtol=1e-3, atol=1e-3), 250),
    "torchdiffeq dopri5": (TorchDiffEq("dopri5", rtol=1e-3, atol=1e-3), 5),
}
print(f"{'':22}{'rounds':>8}{'calls per round':>17}{'s per round':>13}{'first loss':>12}{'last loss':>11}")
results = {}
for name, (integrator, rounds) in rows.items():
    losses, calls, seconds = results[name] = train(integrator, rounds)
    print(
        f"{name:22}{rounds:8}{calls / rounds:17.0f}{seconds / rounds:13.3f}{losses[0]:12.4f}{losses[-1]:11.4f}",
        flush=True,
    )
ours, theirs = results["ExponentialAdams"], results["torchdiffeq dopri5"]
assert ours[0][-1] < 0.7 * ours[0][0], "training lowers the loss"
for a, b in zip(ours[0], theirs[0], strict=False):
    assert abs(a - b) < 0.02 * b, "the same network has the same loss under both solvers"
assert ours[1] < theirs[1], "dopri5 was given more calls of f"
assert ours[1] / len(ours[0]) < 0.1 * theirs[1] / len(theirs[0]), "less than a tenth of the calls of f"

# %%
# The loss against the calls of f. Both solvers compute the same losses. They differ in the cost of a step.

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, (losses, calls, _) in results.items():
    spent = [calls * (k + 1) / len(losses) for k in range(len(losses))]
    (line,) = ax.plot(spent, losses, "o-", ms=3)
    label = f"{name}, {len(losses)} steps"
    ax.annotate(label, (spent[-1], losses[-1]), (0, 8), textcoords="offset points", ha="right", color=line.get_color())
ax.set(xlabel="calls of f so far", ylabel="loss", ylim=(0, None), title="Training a stiff neural ODE")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/stiff_neural_ode.png", dpi=150)
