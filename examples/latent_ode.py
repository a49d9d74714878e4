"""A latent ODE on irregular observations
======================================

A spiral turns left or right, from any angle and radius, and is measured with noise at 10 to 20 random times. A GRU
reads the first part of a spiral backwards, with the time between neighboring observations. It gives a normal
distribution of the latent state z at t = 0. The damped ODE carries z to all times of the spiral, and a small
network maps z to the plane. Training maximizes the evidence lower bound. The times are one tensor (N, T), padded
with NaN, so one solve takes the batch.

The script tests on spirals that training has not seen. It asserts that the error is below a fifth of the spread of
the data where the encoder reads observations, and below a third of it after that. The error is also below half the
error of two constant predictors, the mean and the last of the observations read.

The problem is that of torchdiffeq's example, whose spirals share their times. Source: Chen et al. 2018, Neural
ordinary differential equations, Sec. 5; Rubanova et al. 2019, Latent ODEs for irregularly-sampled time series.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dampode import DampedODEFunc, odeint
from dampode.integrators import Krogstad4

READ, END = 3.0, 4.5  # the encoder reads observations up to READ, and the last ones are before END
MOST, NOISE = 20, 0.1
LATENT, WIDTH, ROUNDS, BATCH = 4, 32, 700, 256

# %%
# The data
# --------
#
# Each spiral has its own number of observations, at its own times.


class Spirals(NamedTuple):
    """Spirals with their observations, a row each; NaN pads the rows."""

    t: Tensor
    """0 first, then the times of the observations, (N, 1 + T)."""
    x: Tensor
    """The true curve at these times, (N, 1 + T, 2)."""
    observed: Tensor
    """The observations, (N, 1 + T, 2). None is made at t = 0, which is NaN."""


def curve(n: int, t: Tensor) -> Tensor:
    """Random spirals at the times t, (n, T) or (T,): (n, T, 2)."""
    turn = torch.where(torch.rand(n, 1) < 0.5, 1.0, -1.0)
    angle = 2 * torch.pi * torch.rand(n, 1) + 1.5 * turn * t
    radius = 0.5 + torch.rand(n, 1) + 0.25 * t
    return torch.stack((radius * angle.cos(), radius * angle.sin()), 2)


def spirals(n: int) -> Spirals:
    """Spirals, each at 10 to MOST times of its own."""
    count = torch.randint(10, MOST + 1, (n, 1))
    times = (END * torch.rand(n, MOST)).masked_fill(torch.arange(MOST) >= count, torch.nan)
    t = pad(times.sort(1).values, (1, 0))  # NaN is sorted to the end
    x = curve(n, t)
    observed = x + NOISE * torch.randn_like(x)
    observed[:, 0] = torch.nan
    return Spirals(t, x, observed)


# %%
# The model
# ---------
#
# The encoder ignores the padding, and the solve repeats the last state there.


class Encoder(nn.Module):
    """Mean and log standard deviation of z at t = 0, from the observations up to READ, read backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, WIDTH)
        self.out = nn.Linear(WIDTH, 2 * LATENT)

    def forward(self, data: Spirals) -> tuple[Tensor, Tensor]:
        """(N, LATENT) each."""
        read = is_read(data)
        gap = pad(data.t.diff(dim=1), (1, 0))  # from the observation before, which is read next
        inputs = torch.cat((data.observed, gap[..., None]), 2).nan_to_num()
        h = inputs.new_zeros(len(inputs), WIDTH)
        for k in range(inputs.shape[1] - 1, 0, -1):
            h = torch.where(read[:, k, None], self.cell(inputs[:, k], h), h)
        mean, log_std = self.out(h).chunk(2, 1)
        return mean, log_std


class LatentODE(nn.Module):
    """The encoder, the damped ODE of z, and the map from z to the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        f = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.Tanh(), nn.Linear(WIDTH, LATENT))
        self.func = DampedODEFunc(f)
        self.decoder = nn.Sequential(nn.Linear(LATENT, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """The curve from z at t = 0, at the times t, (N, T): (N, T, 2)."""
        x: Tensor = self.decoder(odeint(self.func, z, t, Krogstad4(1))).transpose(0, 1)
        return x


def is_read(data: Spirals) -> Tensor:
    """Which observations the encoder reads, (N, 1 + T)."""
    return (data.t <= READ) & data.observed[..., 0].isfinite()


# %%
# Training
# --------
#
# Padding and unread observations do not count in the loss.


def train(data: Spirals) -> LatentODE:
    """A latent ODE after ROUNDS steps, each on BATCH of the spirals."""
    model = LatentODE()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=ROUNDS)
    for _ in range(ROUNDS):
        chosen = torch.randint(len(data.t), (BATCH,))
        batch = Spirals(*(values[chosen] for values in data))
        optimizer.zero_grad()
        mean, log_std = model.encoder(batch)
        z = mean + log_std.exp() * torch.randn_like(mean)
        seen, observed = batch.observed.isfinite(), batch.observed.nan_to_num()
        misfit = torch.where(seen, model(z, batch.t) - observed, 0.0).square().sum() / (2 * NOISE**2)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
        loss: Tensor = (misfit + divergence) / len(mean)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        schedule.step()
    return model


# %%
# Errors on new spirals
# ---------------------
#
# The two constant predictors show how much of the error is left to explain.


def errors(data: Spirals, predicted: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Root mean square errors of the predictions: where observations are read, and after that."""
    read = is_read(data)
    later = (data.t > READ) & data.observed[..., 0].isfinite()
    return {
        name: (rms((x - data.x)[read]), rms((x - data.x)[later]))
        for name, x in ((name, x.expand_as(data.x)) for name, x in predicted.items())
    }


def rms(difference: Tensor) -> float:
    """The root mean square of the distances, differences being (K, 2)."""
    return difference.square().sum(1).mean().sqrt().item()


# %%
# Train, and measure.

torch.manual_seed(0)
model, new = train(spirals(2000)), spirals(200)
read = is_read(new)[..., None]
last = (is_read(new) * torch.arange(MOST + 1)).argmax(1)
with torch.no_grad():
    z = model.encoder(new)[0]
    predicted = {
        "latent ODE": model(z, new.t),
        "mean of the observations read": torch.where(read, new.observed, 0.0).sum(1, True) / read.sum(1, True),
        "last observation read": new.observed[torch.arange(len(last)), last][:, None],
    }
spread = rms(new.x[new.observed[..., 0].isfinite()])
found = errors(new, predicted)
print(f"200 new spirals, spread {spread:.2f}; root mean square errors up to t = {READ:g} and after:")
for name, (before, after) in found.items():
    print(f"  {name:30} {before:.3f}  {after:.3f}")
ours = found.pop("latent ODE")
assert ours[0] < spread / 5, "the latent ODE does not fit the observations that it reads"
assert ours[1] < spread / 3, "the latent ODE does not extrapolate"
assert all(a < b / 2 for rival in found.values() for a, b in zip(ours, rival, strict=True))

# %%
# Six of the new spirals. The model has not read the crosses.

figure, axes = plt.subplots(2, 3, figsize=(9, 6), sharex=True, sharey=True, layout="constrained")
t = torch.linspace(0, END, 121)
with torch.no_grad():
    curves = model(z, t.expand(len(z), -1))
read, given = is_read(new), new.observed[..., 0].isfinite()
for n, ax in enumerate(axes.flat):
    for part, style, label in ((t <= READ, "C0-", "latent ODE"), (t >= READ, "C1-", "latent ODE, extrapolated")):
        ax.plot(*curves[n, part].T, style, label=label)
    for part, style, label in ((read[n], "k.", "read"), (given[n] & ~read[n], "kx", "not read")):
        ax.plot(*new.observed[n, part].T, style, ms=5, label=label)
    ax.set_aspect("equal")
    ax.set_title(f"{int(read[n].sum())} observations read")
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/latent_ode.png", dpi=150)
