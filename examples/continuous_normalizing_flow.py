"""A continuous normalizing flow
=============================

A flow learns the density of two moons. Its state is a pair: points and their log-density. The points follow z' =
f(z, t), and the log-density follows (log p)' = −tr ∂f/∂z. Both are one state of one solve. Training maximizes the
likelihood with a fixed step.

The script asserts that the flow has a higher likelihood on new points than the best Gaussian, that its density
integrates to 1, and that a solve to a tolerance agrees. Source: Chen et al. 2018, Neural ordinary differential
equations, Sec. 4.
"""

import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Constant
from dampode.fields import VectorField
from dampode.integrators import AdaptiveExponential, Integrator, Krogstad4

ROUNDS, BATCH, HIDDEN = 250, 256, 64

# %%
# The field of a pair
# -------------------
#
# f gets the pair and returns a pair. Its divergence is known in closed form.


class Flow(VectorField):
    """z' = W2 tanh(W1 z + b + c t) with its exact divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, t: float | Tensor, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The rates of points (N, 2) and of log-densities (N, 1)."""
        z, log_p = x
        clock = torch.as_tensor(t, dtype=z.dtype).expand(len(z), 1)
        a = torch.tanh(self.inner(torch.cat((z, clock), 1)))
        product = (self.inner.weight[:, :2] * self.outer.weight.T).sum(1)  # the diagonal of W1 W2
        return self.outer(a), -((1 - a**2) @ product)[:, None].expand_as(log_p)


def moons(n: int) -> Tensor:
    """Points on two half circles, with noise, (n, 2)."""
    angle, upper = torch.rand(n) * torch.pi, torch.rand(n) < 0.5
    x = torch.where(upper, torch.cos(angle) - 0.5, 0.5 - torch.cos(angle))
    y = torch.where(upper, torch.sin(angle) - 0.25, 0.25 - torch.sin(angle))
    return 1.5 * torch.stack((x, y), 1) + 0.1 * torch.randn(n, 2)


def log_density(func: DampedODEFunc, points: Tensor, integrator: Integrator) -> Tensor:
    """The log-density of points, (N,): they are followed from t = 1 back to the normal distribution at t = 0."""
    start = points, points.new_zeros(len(points), 1)
    z, change = odeint(func, start, torch.tensor([1.0, 0.0]), integrator)
    normal = torch.distributions.Normal(0.0, 1.0)
    density: Tensor = normal.log_prob(z[-1]).sum(1) - change[-1, :, 0]
    return density


# %%
# Training
# --------
#
# Six steps of ``Krogstad4`` per solve.

torch.manual_seed(0)
func = DampedODEFunc(Flow(), Constant(0.0))
optimizer, step = torch.optim.Adam(func.parameters(), lr=1e-2), Krogstad4(steps=6)
begun = time.perf_counter()
for _ in range(ROUNDS):
    loss = -log_density(func, moons(BATCH), step).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Is it a density?
# ----------------
#
# The grid covers the square from −4 to 4, outside of which the density is negligible.

new = moons(4000)
side = torch.linspace(-4, 4, 161)
grid = torch.cartesian_prod(side, side)
with torch.no_grad():
    flow = log_density(func, new, step).mean().item()
    density = log_density(func, grid, step).exp().reshape(161, 161)
    mass = density.sum().item() * (side[1] - side[0]).item() ** 2
    tight = log_density(func, new, AdaptiveExponential(rtol=1e-6, atol=1e-6)).mean().item()
gaussian = torch.distributions.MultivariateNormal(new.mean(0), new.T.cov()).log_prob(new).mean().item()
print(f"mean log-likelihood: flow {flow:.3f}, to a tolerance {tight:.3f}, best Gaussian {gaussian:.3f}")
print(f"integral of the density: {mass:.4f}; {time.perf_counter() - begun:.0f} s")
assert flow > gaussian + 0.5
assert abs(mass - 1) < 0.01
assert abs(tight - flow) < 0.01

# %%
# The learned density, and 1,000 new points.

figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
axes[0].imshow(density.T, origin="lower", extent=(-4, 4, -4, 4), cmap="magma")
axes[1].plot(*new[:1000].T, ".", ms=2)
for ax, title in zip(axes, ("learned density", "new points"), strict=True):
    ax.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/continuous_normalizing_flow.png", dpi=150)
