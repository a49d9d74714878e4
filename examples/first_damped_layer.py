"""A first damped layer
====================

A damped layer integrates dx/dt = −λx + ρ(λ) f(x, t). The damping λ is the rate at which the layer forgets its
input. This example shows what one step of the layer computes. Then it learns four rates from data.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from dampode import DampedBlock
from dampode.damping import Constant, Learned
from dampode.integrators import ExponentialEuler

torch.manual_seed(0)

# %%
# One step
# --------
#
# ``f`` is any module that keeps the shape of its input. With λ = 0 the layer is a residual block, and with λ = 1 it is
# ``f`` alone. Both hold to the last bit.

f = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
x = torch.randn(32, 8)

assert torch.equal(DampedBlock(f, Constant(0.0))(x), x + f(x))
assert torch.equal(DampedBlock(f, Constant(1.0))(x), f(x))

# %%
# Without a second argument λ is a parameter of the layer. It starts between 0.2 and 0.25.

layer = DampedBlock(f)
lam = layer.func.lam(0.0, x)
print(f"λ starts at {lam.item():.3f}")
torch.testing.assert_close(layer(x), (1 - lam) * x + f(x))

# %%
# Learn the rates
# ---------------
#
# The data come from four channels that forget at different rates. ``f`` is the sine, which the layer knows. One λ per
# channel is unknown. ``softplus`` keeps λ above 0, and four steps of ``ExponentialEuler`` integrate −λx exactly.

true = torch.tensor([0.5, 1.0, 2.0, 3.0])
data = 2 * torch.randn(256, 4)
target = DampedBlock(torch.sin, Constant(true), integrator=ExponentialEuler(4))(data)

damping = Learned(shape=(4,), act=nn.functional.softplus)
student = DampedBlock(torch.sin, damping, integrator=ExponentialEuler(4))
optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
history = []
for _ in range(800):
    history.append(student.func.lam(0.0, data).detach().clone())
    optimizer.zero_grad()
    nn.functional.mse_loss(student(data), target).backward()
    optimizer.step()

found = student.func.lam(0.0, data).detach()
print("true rates:   ", true.tolist())
print("learned rates:", [round(value, 3) for value in found.tolist()])
torch.testing.assert_close(found, true, rtol=0.01, atol=0.0)

# %%
# Each line is one channel. The dashed lines are the rates that made the data.

figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for channel, path in enumerate(torch.stack(history).T):
    ax.plot(path, color=f"C{channel}")
    ax.axhline(true[channel].item(), color=f"C{channel}", ls="--", lw=1)
ax.set(yscale="log", xlabel="training step", ylabel="λ", title="Four learned rates (dashed: true)")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/first_damped_layer.png", dpi=150)
