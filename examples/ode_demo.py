"""Times per sample: a spiral from short pieces
============================================

The true field is y' = A y³. A module in torchdiffeq's form, ``forward(t, y)``, learns it from pieces of 10 of 1000
observations. The pieces of a batch begin at different times, and each keeps its own times: t has the shape (N, T),
and one solve takes the whole batch. The problem is that of torchdiffeq's ``ode_demo.py``.

The script asserts that the trained field follows the spiral: the mean distance over the whole time falls below half
of that of the untrained field.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import TimeDependent
from dampode.integrators import AdaptiveExponential

COUNT, PIECE, BATCH, ROUNDS = 1000, 10, 20, 600

# %%
# Two fields in torchdiffeq's form
# --------------------------------
#
# ``TimeDependent`` runs a module that was written for torchdiffeq. ``Constant(0.0)`` means no damping.


class Spiral(nn.Module):
    """y' = A y³."""

    a: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor([[-0.1, 2.0], [-2.0, -0.1]]))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The rows of y are states."""
        return y**3 @ self.a


class Net(nn.Module):
    """A small network of y³."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """The slope at (t, y)."""
        slope: Tensor = self.net(y**3)
        return slope


def undamped(module: nn.Module) -> DampedODEFunc:
    """The module as a vector field without damping."""
    return DampedODEFunc(TimeDependent(module), Constant(0.0))


# %%
# Observations
# ------------
#
# The truth is one solve with 1000 output times.

torch.manual_seed(0)
integrator = AdaptiveExponential(rtol=1e-4, atol=1e-5)
t = torch.linspace(0.0, 25.0, COUNT)
with torch.no_grad():
    truth = odeint(undamped(Spiral()), torch.tensor([[2.0, 0.0]]), t, integrator)[:, 0]  # (T, 2)
net = Net()
func, optimizer = undamped(net), torch.optim.Adam(net.parameters(), lr=2e-3)


def follow() -> Tensor:
    """The path of the network's field from the start of the spiral, (T, 2)."""
    with torch.no_grad():
        return odeint(func, truth[:1], t, integrator)[:, 0]


# %%
# Training
# --------
#
# ``t[rows]`` has a row of times per sample.

untrained, begun = follow(), time.perf_counter()
for _ in range(ROUNDS):
    rows = torch.randperm(COUNT - PIECE)[:BATCH, None] + torch.arange(PIECE)  # (N, T)
    loss = (odeint(func, truth[rows[:, 0]], t[rows], integrator) - truth[rows.T]).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
trained = follow()
before, after = ((path - truth).abs().mean().item() for path in (untrained, trained))
print(f"mean distance to the spiral: {before:.3f} before, {after:.3f} after {ROUNDS} rounds")
print(f"{time.perf_counter() - begun:.0f} s")
assert after < 0.5 * before

# %%
# The spiral, and the paths of the field before and after training.

figure, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
ax.plot(*truth.T, color="0.6", lw=4, label="true spiral")
ax.plot(*untrained.T, color="C1", label="before training")
ax.plot(*trained.T, color="C0", label="after training")
ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
ax.legend(loc="upper left", frameon=False)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/ode_demo.png", dpi=150)
