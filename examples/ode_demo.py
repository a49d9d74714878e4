"""A neural ODE learns a cubic spiral from short pieces of it: the problem of torchdiffeq's ode_demo.py.

    python examples/ode_demo.py

The true field is y' = A y³. A module in torchdiffeq's form, forward(t, y), learns it from pieces of 10 of 1000
observations. The pieces of a batch begin at different times, and each of them keeps its own times. So one solve with t
of shape (N, T) takes the whole batch. The script asserts that the trained field follows the spiral: the mean distance
over the whole time falls below half of that of the untrained field.
"""

import time

import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import TimeDependent
from dampode.integrators import AdaptiveExponential

COUNT, PIECE, BATCH, ROUNDS = 1000, 10, 20, 600


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


def main() -> None:
    torch.manual_seed(0)
    integrator = AdaptiveExponential(rtol=1e-4, atol=1e-5)
    t = torch.linspace(0.0, 25.0, COUNT)
    with torch.no_grad():
        truth = odeint(undamped(Spiral()), torch.tensor([[2.0, 0.0]]), t, integrator)[:, 0]  # (T, 2)
    net = Net()
    func, optimizer = undamped(net), torch.optim.Adam(net.parameters(), lr=2e-3)

    def distance() -> float:
        with torch.no_grad():
            return float((odeint(func, truth[:1], t, integrator)[:, 0] - truth).abs().mean())

    before, begun = distance(), time.perf_counter()
    for _ in range(ROUNDS):
        rows = torch.randperm(COUNT - PIECE)[:BATCH, None] + torch.arange(PIECE)  # (N, T)
        loss = (odeint(func, truth[rows[:, 0]], t[rows], integrator) - truth[rows.T]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = distance()
    print(f"mean distance to the spiral: {before:.3f} before, {after:.3f} after {ROUNDS} rounds")
    print(f"{time.perf_counter() - begun:.0f} s")
    assert after < 0.5 * before


if __name__ == "__main__":
    main()
