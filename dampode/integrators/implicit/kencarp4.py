"""The implicit integrator for ρ ~ λ, where f is as stiff as the damping."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.call_counter import CallCounter
from dampode.integrators.implicit.loop import ImplicitLoop
from dampode.integrators.implicit.stages import Iteration, iterate
from dampode.integrators.step_control import Tolerance
from dampode.integrators.to_tolerance import TolerantIntegrator

__all__ = ["KenCarp4"]


@dataclass(frozen=True)
class KenCarp4(TolerantIntegrator):
    """Kennedy and Carpenter's L-stable, stiffly accurate method of order 4, with a step size per sample: for ρ ~ λ.

    Each stage solves (1 + hγλ) U = base + hγ N(U, t) with N = ρ f. After division by 1 + hγλ its Jacobian is
    I − θ ∂f/∂x with θ = hγρ / (1 + hγλ). For ρ = 1 + λ, θ < 1 + 1/λ: the equation is as easy for λ = 10⁴ as for λ = 10.
    A quasi-Newton method solves it (see `SecantPairs`). It learns ∂N/∂x from the calls of f, about two per stage. It
    needs no Jacobian and no product with one.

    Neither damping nor ρ f shortens the steps. Where ρ = 1, `AdaptiveExponential` needs fewer calls and less time.
    Output between the ends of a step is the cubic through them; the tolerance does not bound its error. Samples of a
    batch do not influence one another if f acts on each sample by itself. Batch norm and dropout in train mode are
    refused.

    Gradients are those of the accepted steps. Each stage is differentiated by the implicit function theorem: GMRES
    solves its linear equations with products of the transposed Jacobian. Gradients reach the state, the parameters of f
    and λ and, in `odeint`, the times. Second derivatives work. The solve runs without a graph. If gradients are wanted,
    its accepted steps are then taken again, with two calls of f per stage and the same states. There is no option
    ``recompute``: every step keeps its graph.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0. rtol is raised to ten rounding errors if it is less.
        max_steps: steps a sample may try, accepted and rejected ones together.
        first_step: length of the first step, > 0; None estimates it. A first step that is many times too long can pass
            unnoticed.
        max_step: length of the longest step, > 0; None sets no bound.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile, by torch.compile, what an iteration does apart from calling f. This saves most time
            in small batches. The first solve of every new shape or dtype then takes seconds to compile. f itself is not
            compiled, so it may be anything. A CPU needs a C++ compiler, a GPU needs Triton.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call, a sample failed. The message says which one, at which time, and what to do.

    Source: Kennedy & Carpenter 2003, Appl. Numer. Math. 44, ARK4(3)6L[2]SA (the implicit part). The quasi-Newton method
    is Anderson's (1965) with a memory across stages and steps.
    """

    @property
    def _replays(self) -> bool:
        """Always: the iterations of a stage need no graph."""
        return True

    def _loop(self, func: DampedODEFunc, x: Tensor, times: Tensor, calls: CallCounter) -> ImplicitLoop:
        """The loop of a solve, at its start."""
        iteration = _compiled_iterate() if self.compile else iterate
        return ImplicitLoop(func, x, times, Tolerance(self.rtol, self.atol), calls, iteration)


@cache
def _compiled_iterate() -> Iteration:
    """`iterate` under torch.compile. All solves share it, and with it the forms that are already compiled."""
    compiled: Iteration = torch.compile(iterate, dynamic=False)
    return compiled
