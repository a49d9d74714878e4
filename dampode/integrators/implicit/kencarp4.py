"""The implicit integrator, for stiff vector fields: where f itself is stiff, or ρ grows with λ."""

from dataclasses import dataclass
from functools import cache

import torch

from dampode.integrators.adaptive_loop import InitialValueProblem
from dampode.integrators.implicit.iteration import Iteration, iterate
from dampode.integrators.implicit.loop import ImplicitLoop
from dampode.integrators.to_tolerance import TolerantIntegrator

__all__ = ["KenCarp4"]


@dataclass(frozen=True)
class KenCarp4(TolerantIntegrator):
    """Kennedy and Carpenter's L-stable, stiffly accurate method of order 4, with a step size per sample.

    It is for stiff problems: f itself is stiff, or ρ grows with λ. Each stage solves (1 + hγλ) U = base + hγ N(U, t)
    with N = ρ f. Three iterations solve it; every sample has its own.

    - Newton's method, for states of at most 32 numbers. Its Jacobian comes from d + 1 calls of f by finite differences,
      so f may be anything. It serves many steps, and is taken anew once slow convergence has cost as many calls.
    - A quasi-Newton method, for larger states (see `SecantPairs`). It learns ∂N/∂x from the calls of f that it makes
      anyway, about two per stage. It fits ρ = 1 + λ: divided by 1 + hγλ, the Jacobian of the stage is I − θ ∂f/∂x with
      θ = hγρ / (1 + hγλ) < 1 + 1/λ, as easy for λ = 10⁴ as for λ = 10. A state of at most 1,024 numbers turns to
      Newton's method once slow convergence has cost as many calls as a Jacobian.
    - Newton's method with GMRES, for still larger states whose steps do not converge by the quasi-Newton method (see
      `KrylovSpaces`), and where all Jacobians of the batch would have more than 2^25 entries. A product with the
      Jacobian is one call of f, by finite differences. Directions and their products serve many steps.

    A stage counts as solved if the error that is left, by the measured rate of convergence, is a twentieth of the
    tolerance; by the quasi-Newton method its residual must be small too. A step whose stages do not converge is tried
    again, first with a new Jacobian or new directions, then shorter.

    Neither damping nor stiffness shortens the steps. Where f is not stiff and ρ = 1, `AdaptiveExponential` needs fewer
    calls and less time. Output between the ends of a step is the cubic through them; the tolerance does not bound its
    error. Samples of a batch do not influence one another if f acts on each sample by itself. Batch norm and dropout in
    train mode are refused. `Solution.nfe` counts a Jacobian as its d + 1 calls, and a product as 1.

    Gradients are those of the accepted steps. Each stage is differentiated by the implicit function theorem: GMRES
    solves its linear equations with products of the transposed Jacobian. Gradients reach the state, the parameters of f
    and λ and, in `odeint`, the times. Second derivatives work. The solve runs without a graph. If gradients are wanted,
    its accepted steps are then taken again, with two calls of f per stage and the same states. There is no option
    ``recompute``: every step keeps its graph.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0. rtol is raised to ten rounding errors if it is less.
        max_steps: steps a sample may try, accepted and rejected ones together.
        first_step: bound of the first step, at the start and after a jump, > 0; None sets no bound. The integrator
            estimates a first step from f and takes the shorter of the two.
        max_step: length of the longest step, > 0; None sets no bound.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile, by torch.compile, what an iteration does apart from calling f. This saves most time
            in small batches. The first solve of every new shape or dtype then takes seconds to compile. f itself is not
            compiled, so it may be anything. A CPU needs a C++ compiler, a GPU needs Triton.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call, a sample failed. The message says which one, at which time, and what to do.

    Source: Kennedy & Carpenter 2003, Appl. Numer. Math. 44, ARK4(3)6L[2]SA (the implicit part). When to stop iterating:
    Hairer & Wanner, Solving ODEs II, Sec. IV.8. The quasi-Newton method is Anderson's (1965) with a memory across
    stages and steps.
    """

    @property
    def _replays(self) -> bool:
        """Always: the iterations of a stage need no graph."""
        return True

    def _loop(self, problem: InitialValueProblem) -> ImplicitLoop:
        """The loop of a solve, at its start."""
        iteration = _compiled_iterate() if self.compile else iterate
        return ImplicitLoop(problem, iteration)


@cache
def _compiled_iterate() -> Iteration:
    """`iterate` under torch.compile. All solves share it, and with it the forms that are already compiled."""
    compiled: Iteration = torch.compile(iterate, dynamic=False)
    return compiled
