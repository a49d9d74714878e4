"""Events: bouncing balls and firing neurons
=========================================

A ball falls, and its speed turns and shrinks at the floor. A neuron integrates its current, dv/dt = −λ v + I, and
is reset when it fires. All samples of a batch are solved at once, each with its own events. The script asserts that
the times of the events agree with the closed forms to 1e-5. It then finds the gravity of the balls and the currents
of the neurons from the times of bounces and spikes alone, by gradients through the events.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, EventSolution, VectorField, odeint_event
from dampode.damping import Constant
from dampode.integrators import AdaptiveExponential

INTEGRATOR = AdaptiveExponential(rtol=1e-7, atol=1e-9)
REST, BOUNCES = 0.8, 4
LAM, THRESHOLD, SPIKES = 1.0, 1.0, 5

# %%
# Balls and neurons
# -----------------
#
# A subclass of ``VectorField`` is the f of dx/dt = −λx + f(x, t). A ball has no damping. In the neuron λ is the leak.


class Fall(VectorField):
    """Height and speed under a gravity that can be trained."""

    def __init__(self, gravity: float) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(gravity, dtype=torch.float64))

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The derivatives of height and speed."""
        return torch.stack((x[:, 1], -self.gravity.expand(len(x))), 1)


class Current(VectorField):
    """A constant current into each neuron."""

    def __init__(self, current: Tensor) -> None:
        super().__init__()
        self.current = nn.Parameter(current[:, None].clone())

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The current."""
        return self.current.expand_as(x)


# %%
# ``odeint_event`` needs a function whose zero is the event, and a map that gives the state after the event.


def bounces(func: DampedODEFunc, heights: Tensor) -> EventSolution:
    """The first bounces of balls dropped from given heights."""
    x = torch.stack((heights, torch.zeros_like(heights)), 1)
    turned = torch.tensor([1.0, -REST], dtype=x.dtype)
    return odeint_event(
        func,
        x,
        (0.0, 100.0),
        lambda t, x: x[:, 0],
        INTEGRATOR,
        direction=-1,
        count=BOUNCES,
        map=lambda k, t, x: turned * x,
    )


def spikes(func: DampedODEFunc, n: int) -> EventSolution:
    """The first spikes of n neurons."""
    v = torch.zeros(n, 1, dtype=torch.float64)
    return odeint_event(
        func, v, (0.0, 100.0), lambda t, v: v[:, 0] - THRESHOLD, INTEGRATOR, count=SPIKES, map=lambda k, t, v: 0 * v
    )


# %%
# The times agree with the closed forms
# -------------------------------------
#
# The batch holds eight balls and eight neurons. Each sample stops at its own events.

heights = torch.linspace(1.0, 5.0, 8, dtype=torch.float64)
exact = (2 * heights / 9.81).sqrt()
exact = torch.stack([exact * (1 + 2 * sum(REST**k for k in range(1, n + 1))) for n in range(BOUNCES)])
fall = DampedODEFunc(Fall(9.81), Constant(0.0))
balls = bounces(fall, heights)
assert (balls.times - exact).abs().max() < 1e-5

currents = torch.linspace(1.2, 3.0, 8, dtype=torch.float64)
period = -torch.log(1 - LAM * THRESHOLD / currents) / LAM
fired = torch.arange(1, SPIKES + 1)[:, None] * period
neurons = spikes(DampedODEFunc(Current(currents), Constant(LAM)), len(currents))
assert (neurons.times - fired).abs().max() < 1e-5
print(f"{balls.times.numel()} bounces and {neurons.times.numel()} spikes agree with the closed forms to 1e-5")

# %%
# Gradients through the events
# ----------------------------
#
# Eight steps of Gauss-Newton find one number, the gravity, from the last bounces.

guess = DampedODEFunc(Fall(7.0), Constant(0.0))
for _ in range(8):  # Gauss-Newton on one number
    times = bounces(guess, heights).t
    (slope,) = torch.autograd.grad(times.sum(), tuple(guess.f.parameters()))
    with torch.no_grad():
        next(guess.f.parameters()).add_((balls.t - times).sum() / slope)
gravity = next(guess.f.parameters()).item()
print(f"gravity from the times of the bounces: {gravity:.6f}")
assert abs(gravity - 9.81) < 1e-4

# %%
# Newton's method finds a current for each neuron from its last spike.

start = DampedODEFunc(Current(torch.full_like(currents, 2.0)), Constant(LAM))
for _ in range(12):  # Newton on each neuron's own number, in the logarithm of its time
    times = spikes(start, len(currents)).t
    (slopes,) = torch.autograd.grad(times.log().sum(), tuple(start.f.parameters()))
    with torch.no_grad():
        step = (neurons.t.log() - times.log())[:, None] / slopes
        next(start.f.parameters()).add_(step).clamp_(min=1.05)
found = next(start.f.parameters()).detach()[:, 0]
print(f"currents from the times of the spikes: largest error {(found - currents).abs().max():.1e}")
assert (found - currents).abs().max() < 1e-4

# %%
# A row is one sample, and a mark is one event.

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, events, title in zip(axes, (balls, neurons), ("bounces", "spikes"), strict=True):
    for n, moments in enumerate(events.times.detach().T):
        ax.plot(moments, torch.full_like(moments, n), "|", ms=12, mew=2, color="C0")
    ax.set(title=title, xlabel="time", ylabel="sample")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/bouncing_and_spiking.png", dpi=150)
