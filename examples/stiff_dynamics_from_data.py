"""Stiff dynamics from data
========================

A damping matrix and a neural residual are learned from trajectories of x' = −A x + g(x) with four numbers per sample.
The eigenvalues of A are 0.5, 2 and 2000 ± 3000i, and A is full. The model begins with a rough A, and learns A together
with g, an MLP. The data do not tell the linear part of g from A, so A itself is not found.

Every solve diagonalizes A once, and ExponentialAdams integrates −A x exactly. The script asserts that training lowers
the error on new trajectories to less than a third, that torchdiffeq's dopri5 computes the same loss and needs at least
30 times the calls of f, and that exponential Euler with as many calls is at least ten times less accurate.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Matrix
from dampode.integrators import ExponentialAdams, ExponentialEuler, Integrator, TorchDiffEq

ADAMS = ExponentialAdams(rtol=1e-4, atol=1e-5)
TIMES = torch.tensor([0.0, 0.02, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0], dtype=torch.float64)
ROUNDS = 80

# %%
# The data
# --------
#
# One matrix with slow modes and a fast damped oscillation, in coordinates in which none of them is visible.

torch.manual_seed(1)
rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
slow, fast = torch.tensor([[0.5, 0.3], [0.0, 2.0]]), torch.tensor([[2000.0, 3000.0], [-3000.0, 2000.0]])
stiff = rotation @ torch.block_diag(slow, fast).double() @ rotation.T


def residual(x: Tensor) -> Tensor:
    """What the data have beside −A x."""
    return 2 * torch.sin(x.roll(1, -1)) + 0.5 * x.roll(2, -1) ** 2 / (1 + x**2)


truth = DampedODEFunc(residual, Matrix(stiff))


def trajectories(n: int) -> Tensor:
    """Trajectories of the true system at the times, (T, n, 4)."""
    return odeint(truth, torch.randn(n, 4, dtype=torch.float64), TIMES, ExponentialAdams(1e-9, 1e-11))


seen, new = trajectories(32), trajectories(32)

# %%
# The model
# ---------


class Residual(nn.Module):
    """An MLP that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4)).double()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """The residual."""
        self.calls += 1
        out: Tensor = self.net(x)
        return out


field = Residual()
guess = stiff + 0.2 * torch.randn(4, 4, dtype=torch.float64)
model = DampedODEFunc(field, Matrix(nn.Parameter(guess)))


def loss_of(data: Tensor, integrator: Integrator = ADAMS) -> Tensor:
    """The mean squared error along the trajectories, without their starts."""
    return (odeint(model, data[0], TIMES, integrator) - data)[1:].square().mean()


# %%
# Training
# --------

before = loss_of(new).item()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS)
losses, begun = [], time.perf_counter()
for _ in range(ROUNDS):
    optimizer.zero_grad()
    loss = loss_of(seen)
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"{ROUNDS} rounds in {time.perf_counter() - begun:.1f} s")
after = loss_of(new).item()
print(f"mean squared error on new trajectories: {before:.4f} before training, {after:.4f} after it")
assert after < before / 3, "training lowers the error on new trajectories"

# %%
# The rivals
# ----------
#
# dopri5 resolves the fast oscillation for the whole time, although it is damped out after a few milliseconds. One
# sample is enough to count its calls.

results = {}
for name, integrator in {"ExponentialAdams": ADAMS, "torchdiffeq dopri5": TorchDiffEq("dopri5", 1e-4, 1e-5)}.items():
    field.calls, begun = 0, time.perf_counter()
    with torch.no_grad():
        results[name] = loss_of(new[:, :1], integrator).item(), field.calls
    print(f"{name:20}{field.calls:8} calls of f, {time.perf_counter() - begun:6.2f} s, loss {results[name][0]:.6f}")
(own, calls), (theirs, their_calls) = results.values()
assert abs(own - theirs) < 0.02 * own + 1e-6, "both solvers compute the same loss"
assert their_calls > 30 * calls, "dopri5 needs at least 30 times the calls"

# %%
# Exponential Euler integrates −A x exactly, too, but holds f constant over a step.

euler = ExponentialEuler(-(-calls // (len(TIMES) - 1)))
errors = [float((odeint(truth, new[0], TIMES, i) - new).abs().max() / new.abs().max()) for i in (ADAMS, euler)]
print(f"error on the true system with {calls} calls: ExponentialAdams {errors[0]:.1e}, Euler {errors[1]:.1e}")
assert errors[1] > 10 * errors[0], "a first-order exponential method is less accurate with as many calls"

# %%
# The loss, and a new trajectory (dots) beside the model's (lines).

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.semilogy(losses)
left.set(xlabel="round", ylabel="mean squared error", title="Training")
times = torch.linspace(0.0, 2.0, 101, dtype=torch.float64)
lines = right.plot(times, odeint(model, new[0, :1], times, ADAMS)[:, 0].detach())
for line, values in zip(lines, new[:, 0].T, strict=True):
    right.plot(TIMES, values, "o", color=line.get_color())
right.set(xlabel="t", ylabel="x", title="A new trajectory")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/stiff_dynamics_from_data.png", dpi=150)
