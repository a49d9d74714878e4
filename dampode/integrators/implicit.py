"""The implicit integrator for ρ ~ λ, where f is as stiff as the damping."""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.integrators import kencarp
from dampode.integrators.implicit_gradients import attached
from dampode.integrators.implicit_loop import ImplicitLoop, ImplicitStep
from dampode.integrators.implicit_stages import Iterating, iterate
from dampode.integrators.solution import Solution
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import Tolerance
from dampode.integrators.tolerant import TolerantIntegrator


@dataclass(frozen=True)
class KenCarp4(TolerantIntegrator):
    """Kennedy and Carpenter's L-stable, stiffly accurate method of order 4, with a step size per sample: for ρ ~ λ.

    A stage solves (1 + hγλ) U = base + hγ N(U, t), N = ρ f. Divided by 1 + hγλ its Jacobian is I − θ ∂f/∂x with
    θ = hγρ / (1 + hγλ) < 1 + 1/λ for ρ = 1 + λ: as easy for λ = 10⁴ as for λ = 10. A quasi-Newton method solves it (see
    `Secants`): it learns ∂N/∂x from the calls of f, about two a stage, and takes no Jacobian and no product with one.

    Neither damping nor ρ f shortens its steps; where ρ = 1 `AdaptiveExponential` needs fewer calls and less time. Dense
    output is the cubic of a step's ends. Batch mates do not influence one another.

    Gradients are those of the accepted steps: a stage is differentiated by the implicit function theorem, its linear
    equations solved by GMRES on products with the transposed Jacobian. They reach the state, the parameters of f and λ
    and, in `odeint`, the times; second derivatives work. The solve runs without a graph; where gradients are wanted its
    accepted steps are taken again, three calls of f a stage, and there is no ``checkpoint``: a step keeps its graph.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0; rtol is taken as ten rounding errors at least.
        max_steps: attempted steps a sample may take.
        first_step: length of the first step, > 0; None estimates it.
        compile: whether to compile what an iteration does beside calling f, by torch.compile: that cost falls, most in
            small batches, and the first solve of every new shape or dtype takes seconds to compile. f is not compiled:
            it may be anything. It needs what torch.compile needs: a C++ compiler on a CPU, Triton on a GPU.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call: a sample failed; the words say which, at which time, and what to do.

    Source: Kennedy & Carpenter 2003, Appl. Numer. Math. 44, ARK4(3)6L[2]SA (the implicit part); the quasi-Newton method
    is Anderson's (1965) with a memory across stages and steps.
    """

    compile: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_instance(self.compile, bool, "compile")

    def _steps_taken(self, func: DampedODEFunc, x: Tensor, times: Tensor) -> Solution:
        """A solve without a graph, and its accepted steps again where gradients are wanted."""
        keep = torch.is_grad_enabled()
        with torch.no_grad():
            how = _compiled_iterate() if self.compile else iterate
            loop = ImplicitLoop(func, x, times, Tolerance(self.rtol, self.atol), how)
            solution = loop.run(self.max_steps, self.first_step, keep)
        if not loop.steps:
            return solution
        xs = _differentiated(loop, func, x, loop.steps, 1e-3 * self.rtol)
        xs = torch.where(torch.isnan(solution.x), torch.nan, xs)
        return replace(solution, x=xs, nfe=solution.nfe + 1 + 15 * solution.accepted)


@functools.cache
def _compiled_iterate() -> Iterating:
    """`iterate` under torch.compile, one for all solves: its cache of compiled forms is shared."""
    compiled: Iterating = torch.compile(iterate, dynamic=False)
    return compiled


def _differentiated(
    loop: ImplicitLoop, func: DampedODEFunc, x: Tensor, steps: list[ImplicitStep], tol: float
) -> Tensor:
    """The states at the asked times with their derivatives, (T, N, *S), from the converged stages."""
    split, rows = Splitting(func, x), [x] + [torch.full_like(x, torch.nan)] * len(loop.asked)
    slope = split(loop.clock.time(steps[0].begin, x.dtype), x) - split.lam * x
    for h, begin, end, stages in steps:
        signed, ok = (loop.clock.sign * h).to(x.dtype), h > 0
        (weight, g), slopes, u = kencarp.damped(split.lam, signed), [signed * slope], x
        for node, value in zip(kencarp.NODES[1:], stages, strict=True):
            base, t = kencarp.base(x, slopes), loop.clock.time(torch.lerp(begin, end, node), x.dtype)

            def phi(
                u: Tensor, a: Tensor = weight * base, t: Tensor = t, split: Splitting = split, g: Tensor = g
            ) -> Tensor:
                return torch.addcmul(a, g, split(t, u))

            u = attached(phi, torch.where(ok, value, x.detach()), tol)
            slopes.append(kencarp.stage_slope(u, base))
        for row, asked in enumerate(loop.asked, 1):
            inside = (begin < asked) & (asked <= end)
            if bool(inside.any()):
                theta = torch.where(inside, (asked - begin) / torch.where(ok, h, 1.0), 1.0).to(x.dtype)
                rows[row] = torch.where(inside, kencarp.hermite(theta, x, slopes[0], u, slopes[-1]), rows[row])
        slope = torch.where(ok, slopes[-1] / torch.where(ok, signed, 1.0), slope)
        x = torch.where(ok, u, x)
        split = split.at(x)
    return torch.stack(rows)
