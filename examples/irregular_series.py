"""Irregular series: time scales found from events
===============================================

The data are made here: 128 series of 60 events of random size at random times. Each event adds to two traces. One
forgets with the time constant 1, the other with 20. Measured at each event is a weighted sum of both traces with 1
% noise.

A ``DampedScan`` of two channels starts at the wrong time scales, 3 and 8. The script asserts that it finds 1 and 20
within 5 %. Its error on new series is near the noise, and less than half the error of the same layer without the
times. Its state at 200 times between the events is the exact decay.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from dampode.sequence import DampedScan

TRUE, START = (1.0, 20.0), (3.0, 8.0)
NOISE, STEPS = 0.01, 600

# %%
# The data
# --------
#
# ``times`` differ from series to series.


def events(series: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Times (N, T), sizes (N, T, 1) and the measured sum of the traces (N, T, 1)."""
    gaps = -torch.log(torch.rand(series, 60, generator=generator, dtype=torch.float64))
    times, sizes = gaps.cumsum(1), torch.randn(series, 60, 1, generator=generator)
    traces, measured = torch.zeros(series, 2), []
    for k in range(60):
        gap = gaps[:, k, None].float() if k else torch.zeros(series, 1)
        traces = torch.exp(-gap / torch.tensor(TRUE)) * traces + sizes[:, k]
        measured.append(traces @ torch.tensor([[1.0], [-0.5]]))
    clean = torch.stack(measured, 1)
    return times, sizes, clean + NOISE * torch.randn(clean.shape, generator=generator)


# %%
# The layer
# ---------
#
# A scan with one input and two channels, and a weighted sum of both.


class Model(nn.Module):
    """A layer of two channels and a weighted sum of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scan, self.sum = DampedScan(1, 2, START), nn.Linear(2, 1)

    def forward(self, sizes: Tensor, times: Tensor | None) -> Tensor:
        """The measured sum after each event, (N, T, 1)."""
        out: Tensor = self.sum(self.scan(sizes, times)[0])
        return out

    def scales(self) -> list[float]:
        """The time scales 1/λ, from fast to slow."""
        values: list[float] = (1 / self.scan.damping(0.0, torch.zeros(1, 2))).sort().values.tolist()
        return values


def train(model: Model, sizes: Tensor, times: Tensor | None, measured: Tensor) -> list[list[float]]:
    """Fit a model; return its time scales after each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    history = []
    for _ in range(STEPS):
        history.append(model.scales())
        optimizer.zero_grad()
        nn.functional.mse_loss(model(sizes, times), measured).backward()
        optimizer.step()
        schedule.step()
    return history


# %%
# Training with and without the times
# -----------------------------------
#
# The second model is the same layer, but it counts its steps as 0, 1, 2, ...

torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
times, sizes, measured = events(128, generator)
new_times, new_sizes, new_measured = events(128, generator)
model, without = Model(), Model()
history = train(model, sizes, times, measured)
train(without, sizes, None, measured)
with torch.no_grad():
    error = (model(new_sizes, new_times) - new_measured).square().mean().sqrt().item()
    error_without = (without(new_sizes, None) - new_measured).square().mean().sqrt().item()
found = model.scales()
print(f"time scales: true {TRUE}, start {START}, found ({found[0]:.3f}, {found[1]:.2f})")
print(f"error on new series: {error:.4f} with times, {error_without:.4f} without, noise {NOISE}")
assert all(abs(ours / true - 1) < 0.05 for ours, true in zip(found, TRUE, strict=True))
assert error < 2 * NOISE
assert error < error_without / 2

# %%
# The state between the events
# ----------------------------
#
# A step without an observation asks for the state at its time.

row, size = new_times[0, :12], new_sizes[0, :12]
fine = torch.cat((torch.linspace(float(row[0]), float(row[-1]), 200, dtype=torch.float64), row))
order = fine.argsort(stable=True)
seen = torch.cat((torch.zeros(200, dtype=torch.bool), torch.ones(12, dtype=torch.bool)))[order]
values = torch.cat((torch.zeros(200, 1), size))[order]
with torch.no_grad():
    states, last = torch.zeros(1, 2), []
    scan = model.scan
    for k in range(1, 213):  # every prefix, so that nothing after a time can change its state
        last.append(scan(values[None, :k], fine[order][None, :k], seen[None, :k])[1][0])
    states = torch.stack(last)
    lam = scan.damping(0.0, torch.zeros(1, 2))
    latest = torch.where(seen, torch.arange(212), -1).cummax(0).values
    gap = (fine[order] - fine[order][latest.clamp(min=0)]).float()[:, None]
    exact = torch.exp(-lam * gap) * states[latest.clamp(min=0)]
    between = latest >= 0
torch.testing.assert_close(states[between], exact[between], rtol=1e-5, atol=1e-5)

# %%
# The left plot shows the time scales during training. The right plot shows the state of one series; grey lines are
# events.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.plot(history)
for scale in TRUE:
    left.axhline(scale, color="0.5", ls="--", lw=1)
left.set(yscale="log", xlabel="training step", ylabel="time scale 1/λ", title="Learned time scales (dashed: true)")
right.plot(fine[order], states)
for time in row:
    right.axvline(time, color="0.85", lw=0.8, zorder=0)
right.set(xlabel="time", ylabel="state", title="The state between events", xlim=(0, fine[order][-1]))
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/irregular_series.png", dpi=150)
