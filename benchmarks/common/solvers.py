"""Solvers, ours and other libraries', as functions (problem, tolerance) -> states at problem.t.

torchode and diffrax are optional. If one is not installed, its solvers are left out, and the result says so.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.common.problems import ForcedMLP, Problem
from dampode import odeint
from dampode.damping import Matrix
from dampode.integrators import AdaptiveExponential, ExponentialAdams, TorchDiffEq

__all__ = [
    "Diffrax",
    "Solver",
    "diffrax_solver",
    "exponential_adams",
    "exponential_adams_compiled",
    "floor",
    "ours",
    "ours_compiled",
    "scipy_one_sample",
    "torchdiffeq_adaptive",
    "torchdiffeq_fixed",
    "torchode_method",
]

Solver = Callable[[Problem, float], Tensor]
"""(problem, tolerance) -> the states at problem.t, (T, N, *S)."""


def floor(problem: Problem) -> float:
    """Absolute over relative tolerance: a hundredth of the final size of x, which is about 1/λ for ρ = 1.

    A damping matrix says nothing of the size of x; there it is 1e-2.
    """
    if isinstance(problem.func.damping, Matrix):
        return 1e-2
    lam = problem.func.lam(problem.t[0], problem.x)
    return 1e-2 * float((problem.func.rho(lam) / (1 + lam)).min())


def ours(problem: Problem, tol: float) -> Tensor:
    """AdaptiveExponential."""
    return odeint(problem.func, problem.x, problem.t, AdaptiveExponential(tol, tol * floor(problem)))


def ours_compiled(problem: Problem, tol: float) -> Tensor:
    """AdaptiveExponential with compiled steps."""
    return odeint(problem.func, problem.x, problem.t, AdaptiveExponential(tol, tol * floor(problem), compile=True))


def exponential_adams(problem: Problem, tol: float) -> Tensor:
    """ExponentialAdams."""
    return odeint(problem.func, problem.x, problem.t, ExponentialAdams(tol, tol * floor(problem)))


def exponential_adams_compiled(problem: Problem, tol: float) -> Tensor:
    """ExponentialAdams with compiled steps."""
    return odeint(problem.func, problem.x, problem.t, ExponentialAdams(tol, tol * floor(problem), compile=True))


def torchdiffeq_adaptive(method: str) -> Solver:
    """Torchdiffeq to a tolerance."""

    def run(problem: Problem, tol: float) -> Tensor:
        return odeint(problem.func, problem.x, problem.t, TorchDiffEq(method, tol, tol * floor(problem)))

    return run


def torchdiffeq_fixed(method: str, order: int) -> Solver:
    """Torchdiffeq with a fixed step of length tol^(1/order) / 4."""

    def run(problem: Problem, tol: float) -> Tensor:
        step = 0.25 * tol ** (1 / order)
        return odeint(problem.func, problem.x, problem.t, TorchDiffEq(method, options={"step_size": step}))

    return run


def scipy_one_sample(method: str) -> Solver:
    """SciPy on the first sample alone, because a dense Jacobian of the whole batch does not fit in memory."""

    def run(problem: Problem, tol: float) -> Tensor:
        x, shape = problem.x[:1], problem.x[:1].shape

        def rhs(t: float, y: NDArray[Any]) -> NDArray[Any]:
            dx: Tensor = problem.func(t, torch.from_numpy(y).view(shape))
            return dx.detach().numpy().ravel()

        span = (float(problem.t[0]), float(problem.t[-1]))
        s = solve_ivp(rhs, span, x.numpy().ravel(), method, problem.t.numpy(), rtol=tol, atol=tol * floor(problem))
        xs = np.full((len(problem.t), x.numel()), np.nan)
        xs[: s.y.shape[1]] = s.y.T
        return torch.from_numpy(xs).view(-1, *shape)

    return run


def torchode_method(name: str) -> Solver | None:
    """A method of torchode, "Dopri5" or "Tsit5", with a step size per sample; None if torchode is not installed."""
    try:
        import torchode
    except ImportError:
        return None

    def run(problem: Problem, tol: float) -> Tensor:
        n, shape = len(problem.x), problem.x.shape

        def rhs(t: Tensor, y: Tensor) -> Tensor:
            dx: Tensor = problem.func(t.view(-1, *[1] * (len(shape) - 1)), y.view(shape))
            return dx.flatten(1)

        term = torchode.ODETerm(rhs)
        method = getattr(torchode, name)(term=term)
        control = torchode.IntegralController(atol=tol * floor(problem), rtol=tol, term=term)
        adjoint = torchode.AutoDiffAdjoint(method, control)
        start = torchode.InitialValueProblem(y0=problem.x.flatten(1), t_eval=problem.t.expand(n, -1))
        ys: Tensor = adjoint.solve(start).ys
        return ys.transpose(0, 1).reshape(-1, *shape)

    return run


class Diffrax:
    """A jitted diffrax solver on the MLP field, vmapped over the samples.

    Args:
        solver: "Tsit5" or "Kvaerno5".

    Raises:
        ImportError: diffrax is not installed.
    """

    def __init__(self, solver: str) -> None:
        import diffrax
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax, self.diffrax = jax, diffrax
        self.solver = getattr(diffrax, solver)()
        self.stages = {"Tsit5": 6, "Kvaerno5": 7}[solver]

    def prepare(self, problem: Problem) -> tuple[Callable[[float], tuple[NDArray[Any], int]], float]:
        """Compile for a problem.

        Returns:
            A function tolerance -> (states, largest number of calls of f per sample), and the seconds of compiling.
        """
        jax, jnp, diffrax = self.jax, self.jax.numpy, self.diffrax
        f = problem.func.f
        if not isinstance(f, ForcedMLP):
            raise TypeError("the diffrax rival has the MLP field only")
        w1, b1, w2, b2 = (p.detach().numpy() for p in (*f.inner.parameters(), *f.outer.parameters()))
        omega, phase = f.omega.numpy(), f.phase.numpy()
        damping = problem.func.lam(problem.t[0], problem.x)
        weight, lam = np.asarray(problem.func.rho(damping)), damping.numpy()

        def rhs(t: Any, y: Any, _: Any) -> Any:
            return -lam * y + weight * (jnp.tanh(y @ w1.T + b1 + jnp.sin(omega * t + phase)) @ w2.T + b2)

        times = jnp.asarray(problem.t.numpy())
        x, small = jnp.asarray(problem.x.numpy()), floor(problem)

        def one(y: Any, tol: float) -> Any:
            control = diffrax.PIDController(rtol=tol, atol=tol * small)
            return diffrax.diffeqsolve(
                diffrax.ODETerm(rhs), self.solver, times[0], times[-1], None, y,
                saveat=diffrax.SaveAt(ts=times), stepsize_controller=control, max_steps=200_000, throw=False,
            )  # fmt: skip

        start = time.perf_counter()
        compiled = jax.jit(jax.vmap(one, (0, None))).lower(x, 1e-3).compile()
        seconds = time.perf_counter() - start

        def run(tol: float) -> tuple[NDArray[Any], int]:
            solution = compiled(x, tol)
            steps = int(np.max(np.asarray(solution.stats["num_steps"])))
            return np.swapaxes(np.array(solution.ys), 0, 1), self.stages * steps

        return run, seconds


def diffrax_solver(name: str) -> Diffrax | None:
    """The solver, or None if diffrax is not installed."""
    try:
        return Diffrax(name)
    except ImportError:
        return None
