"""Stiff dynamics learned from data: a damping matrix and a neural residual, beside dopri5 and exponential Euler.

    python examples/stiff_dynamics_from_data.py
    python examples/stiff_dynamics_from_data.py --figure stiff_dynamics.png

The data are trajectories of x' = −A x + g(x) with four numbers per sample. The eigenvalues of A are 0.5, 2 and
2000 ± 3000i, and A is full. The model begins with a rough A, and learns A together with g, an MLP. The data do not tell
the linear part of g from A, so A itself is not found. Every solve diagonalizes A once, and ExponentialAdams integrates
−A x exactly. The script asserts that

- training lowers the error on new trajectories to less than a third;
- dopri5 computes the same loss and needs at least 30 times the calls of f;
- exponential Euler with as many calls, also in the coordinates of A, is at least 10 times less accurate.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from dampode import DampedODEFunc, odeint
from dampode.damping import Matrix
from dampode.integrators import ExponentialAdams, ExponentialEuler, Integrator, TorchDiffEq

ADAMS = ExponentialAdams(rtol=1e-4, atol=1e-5)
TIMES = torch.tensor([0.0, 0.02, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0], dtype=torch.float64)
ROUNDS = 80


def stiff_matrix() -> Tensor:
    """A full matrix with the eigenvalues 0.5, 2 and 2000 ± 3000i."""
    torch.manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    blocks = torch.block_diag(
        torch.tensor([[0.5, 0.3], [0.0, 2.0]]), torch.tensor([[2000.0, 3000.0], [-3000.0, 2000.0]])
    )
    return rotation @ blocks.double() @ rotation.T


def residual(x: Tensor) -> Tensor:
    """What the data have beside −A x."""
    return 2 * torch.sin(x.roll(1, -1)) + 0.5 * x.roll(2, -1) ** 2 / (1 + x**2)


class Counted(nn.Module):
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


def data(n: int, seed: int) -> Tensor:
    """Trajectories of the true system at the times, (T, n, 4)."""
    x = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return odeint(DampedODEFunc(residual, Matrix(stiff_matrix())), x, TIMES, ExponentialAdams(1e-9, 1e-11))


def model() -> tuple[DampedODEFunc, Counted]:
    """The model before training: A is off by 0.2 in every direction of the slow part."""
    torch.manual_seed(0)
    field = Counted()
    guess = stiff_matrix() + 0.2 * torch.randn(4, 4, dtype=torch.float64)
    return DampedODEFunc(field, Matrix(nn.Parameter(guess))), field


def loss_of(func: DampedODEFunc, xs: Tensor, integrator: Integrator) -> Tensor:
    """The mean squared error along the trajectories, without their starts."""
    got = odeint(func, xs[0], TIMES, integrator)
    return (got - xs)[1:].square().mean()


def train(func: DampedODEFunc, xs: Tensor) -> list[float]:
    """The losses of ROUNDS rounds. One rate serves A and the MLP, because Adam scales each number's step by itself."""
    optimizer = torch.optim.Adam(func.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS)
    losses = []
    for _ in range(ROUNDS):
        optimizer.zero_grad()
        loss = loss_of(func, xs, ADAMS)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def calls_and_gradient(func: DampedODEFunc, field: Counted, xs: Tensor, integrator: Integrator) -> tuple[float, int]:
    """The loss, and the calls of f that it and its gradient take."""
    field.calls = 0
    loss = loss_of(func, xs, integrator)
    loss.backward()
    return loss.item(), field.calls


def euler_error(xs: Tensor, calls: int) -> float:
    """The largest error of exponential Euler on the true system with at least so many calls of f, per size of x."""
    euler = ExponentialEuler(-(-calls // (len(TIMES) - 1)))
    got = odeint(DampedODEFunc(residual, Matrix(stiff_matrix())), xs[0], TIMES, euler)
    return float((got - xs).abs().max() / xs.abs().max())


def figure(path: Path, losses: list[float], xs: Tensor, got: Tensor) -> None:
    """The loss, and one new trajectory beside the model's."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.semilogy(losses)
    left.set(xlabel="round", ylabel="mean squared error")
    right.plot(TIMES, xs[:, 0], "o", color="0.5")
    right.set_prop_cycle(None)
    right.plot(TIMES, got[:, 0])
    right.set(xlabel="t", ylabel="x: data (dots), model (lines)")
    fig.savefig(path, dpi=120)


def main(path: Path | None) -> None:
    """Train, and compare the solvers."""
    begun = time.perf_counter()
    xs, new = data(32, 2), data(32, 3)
    func, field = model()
    before = loss_of(func, new, ADAMS).item()
    losses = train(func, xs)
    seconds = time.perf_counter() - begun
    after = loss_of(func, new, ADAMS).item()
    print(f"mean squared error on new trajectories: {before:.4f} before training, {after:.5f} after it")
    print(f"{ROUNDS} rounds in {seconds:.1f} s with ExponentialAdams\n")

    begun = time.perf_counter()
    own, own_calls = calls_and_gradient(func, field, new[:, :1], ADAMS)
    own_seconds, begun = time.perf_counter() - begun, time.perf_counter()
    with torch.no_grad():
        field.calls = 0
        theirs = loss_of(func, new[:, :1], TorchDiffEq("dopri5", 1e-4, 1e-5)).item()
    their_calls, their_seconds = field.calls, time.perf_counter() - begun
    print(f"{'':34}{'calls of f':>12}{'seconds':>9}{'loss':>10}")
    print(f"{'ExponentialAdams, with gradient':34}{own_calls:12}{own_seconds:9.2f}{own:10.5f}")
    print(f"{'torchdiffeq dopri5, no gradient':34}{their_calls:12}{their_seconds:9.2f}{theirs:10.5f}\n")
    exact = DampedODEFunc(residual, Matrix(stiff_matrix()))
    adams_error = float((odeint(exact, new[0], TIMES, ADAMS) - new).abs().max() / new.abs().max())
    first_order = euler_error(new, own_calls)
    print(f"error on the true system with {own_calls} calls: ExponentialAdams {adams_error:.1e}, exponential Euler "
          f"{first_order:.1e}")  # fmt: skip
    if path is not None:
        figure(path, losses, new, odeint(func, new[0], TIMES, ADAMS).detach())
    assert after < before / 3, "training lowers the error on new trajectories"
    assert abs(own - theirs) < 0.02 * own + 1e-6, "both solvers compute the same loss"
    assert their_calls > 30 * own_calls, "dopri5 needs at least 30 times the calls"
    assert first_order > 10 * adams_error, "a first-order exponential method is less accurate with as many calls"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="save the figure to this file")
    main(parser.parse_args().figure)
