"""The implicit integrator for ρ ~ λ, where f is as stiff as the damping."""

from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.integrators.exponential.dense_output import placed
from dampode.integrators.implicit import tableau
from dampode.integrators.implicit.gradients import attached
from dampode.integrators.implicit.loop import ImplicitLoop
from dampode.integrators.implicit.stages import Iterating, iterate
from dampode.integrators.solution import Solution
from dampode.integrators.splitting import Splitting
from dampode.integrators.step_control import Tolerance
from dampode.integrators.to_tolerance import TolerantIntegrator, begun


@dataclass(frozen=True)
class KenCarp4(TolerantIntegrator):
    """Kennedy and Carpenter's L-stable, stiffly accurate method of order 4, with a step size per sample: for ρ ~ λ.

    A stage solves (1 + hγλ) U = base + hγ N(U, t), N = ρ f. Divided by 1 + hγλ its Jacobian is I − θ ∂f/∂x with
    θ = hγρ / (1 + hγλ) < 1 + 1/λ for ρ = 1 + λ: as easy for λ = 10⁴ as for λ = 10. A quasi-Newton method solves it (see
    `Secants`): it learns ∂N/∂x from the calls of f, about two a stage, and takes no Jacobian and no product with one.

    Neither damping nor ρ f shortens its steps; where ρ = 1 `AdaptiveExponential` needs fewer calls and less time. Dense
    output is the cubic of a step's ends, whose error the tolerance does not bound. Batch mates do not influence one
    another where f acts on each sample by itself; batch norm and dropout in train mode are refused.

    Gradients are those of the accepted steps: a stage is differentiated by the implicit function theorem, its linear
    equations solved by GMRES on products with the transposed Jacobian. They reach the state, the parameters of f and λ
    and, in `odeint`, the times; second derivatives work. The solve runs without a graph; where gradients are wanted its
    accepted steps are taken again, two calls of f a stage, with the same states; there is no ``checkpoint``: a step
    keeps its graph.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0; rtol is taken as ten rounding errors at least.
        max_steps: attempted steps a sample may take.
        first_step: length of the first step, > 0; None estimates it. One many times too long can pass unnoticed.
        max_step: length of the longest step, > 0; None for no bound.
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
        start = begun(func, x, times[0])
        with torch.no_grad():
            how = _compiled_iterate() if self.compile else iterate
            loop = ImplicitLoop(func, x, times, Tolerance(self.rtol, self.atol), how)
            solution = loop.run(self.max_steps, self.first_step, self.max_step, start is not None)
        solution = replace(solution, nfe=solution.nfe + torch.is_grad_enabled())  # the call of `begun`
        if start is None or not loop.steps:
            return solution
        split, n1 = start
        xs = _differentiated(loop, split, x, n1 - split.lam * x, 0.1 * self.rtol)
        xs = torch.where(torch.isnan(solution.x), torch.nan, xs)
        return replace(solution, x=xs, nfe=solution.nfe + 10 * solution.accepted)


@cache
def _compiled_iterate() -> Iterating:
    """`iterate` under torch.compile, one for all solves: its cache of compiled forms is shared."""
    compiled: Iterating = torch.compile(iterate, dynamic=False)
    return compiled


def _differentiated(loop: ImplicitLoop, split: Splitting, x: Tensor, slope: Tensor, tol: float) -> Tensor:
    """The states at the asked times with their derivatives, (T, N, *S), from the converged stages; F(x, t) = slope."""
    first, places, rows = x, [loop.calls.new_empty(0)], [x.new_empty(0, *x.shape[1:])]
    for h, begin, end, stages in loop.steps:
        signed, ok = (loop.clock.sign * h).to(x.dtype), h > 0
        (weight, g), slopes, u = tableau.damped(split.lam, signed), [signed * slope], x
        shallow, lead = split.shallow()
        for node, value in zip(tableau.NODES[1:], stages, strict=True):
            base, t = tableau.base(x, slopes), loop.clock.time(torch.lerp(begin, end, node), x.dtype)
            u = attached(partial(shallow, t), lead, weight * base, g, torch.where(ok, value, x.detach()), tol)
            slopes.append(tableau.stage_slope(u, base))
        since = loop.asked - begin.reshape(-1, 1)
        sample, row = ((since > 0) & (loop.asked <= end.reshape(-1, 1))).nonzero(as_tuple=True)
        theta = (since[sample, row].reshape(-1, *[1] * (x.ndim - 1)) / h[sample]).to(x.dtype)
        places.append(row * len(x) + sample)
        rows.append(tableau.hermite(theta, *(value[sample] for value in (x, slopes[0], u, slopes[-1]))))
        slope = torch.where(ok, slopes[-1] / torch.where(ok, signed, 1.0), slope)
        x = torch.where(ok, u, x)
        split = split.at(x)
    return torch.cat((first[None], placed(torch.cat(places), torch.cat(rows), len(loop.asked), x)))
