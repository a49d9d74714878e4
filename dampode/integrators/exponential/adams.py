"""The exponential Adams method: Eq. 4 to a tolerance, with a step size and an order per sample."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dampode._checks import require_positive_int
from dampode.integrators.adaptive_loop import InitialValueProblem
from dampode.integrators.exponential.adams_step import try_step
from dampode.integrators.exponential.compiled import compiled_step
from dampode.integrators.exponential.moments import MAX_ORDER
from dampode.integrators.exponential.recomputing import RecomputingIntegrator

if TYPE_CHECKING:
    from dampode.integrators.exponential.adams_loop import AdamsLoop

__all__ = ["ExponentialAdams"]


@dataclass(frozen=True)
class ExponentialAdams(RecomputingIntegrator):
    """The exponential Adams method with a step size, an order and a number of evaluations per sample.

    Damping is exact, as in `AdaptiveExponential`. N = ρ f is interpolated through its last values instead of through
    stages. So a step costs one call of f, now and then two, and its order is as high as the smoothness of f allows.

    With z = −hλ, the nodes s_i = (t_i − t)/h <= 0, q_j(s) = Π_{i<j} (s − s_i) and the divided differences c_j of the
    values N_i, a step predicts, evaluates and corrects:

        x_p = e^z x + h Σ_{j<k} g_j c_j,  g_j = ∫_0^1 e^{z(1−s)} q_j(s) ds,
        N = N(x_p, t+h),  Δ_j = N − Σ_{l<j} q_l(1) c_l,  x_c = x_p + h g_k Δ_k / q_k(1).

    The predictor has order k and the corrector k + 1, at any λ for ρ = 1. The error of a step is estimated as
    hφ_1(z) I_k Δ_{k+1} / q_{k+1}(1), I_k = ∫_0^1 (1 − u) q_k(u) du. Its root mean square over a sample is kept below
    atol + rtol |x|. Among the orders k − 2 to k + 1 each sample takes the one whose next step is the longest. A sample
    starts with order 1, and so it does after a jump.

    N is evaluated a second time, at x_c, where one correction does not settle it: where the measured L = |∂N/∂x| makes
    the next correction more than a quarter of the tolerance, or the step unstable. Every second evaluation measures L;
    one is made at step 20 and then every 40 steps. Where L hφ_1 is above 1.2 in many steps, f itself is stiff: the
    solve warns, and `KenCarp4` is the remedy. Where λ depends on the state or on time, λ_n is frozen for a step, and
    the values of N before are taken for this λ_n: N_i = F_i + λ_n x_i, with F_i = dx/dt at the state x_i of that
    evaluation.

    States between the ends of a step come from the same polynomial, without calls of f, and so do events. Samples of a
    batch do not influence one another if f acts on each sample by itself. Fields that couple samples, such as batch
    norm in train mode, and random fields are refused where a probe finds them.

    Gradients flow through the accepted steps to the state, to the parameters of f and λ and, in `odeint`, to the times.
    Double backward works.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: largest number of calls of f that a sample may spend on steps, accepted and rejected together.
        first_step: bound of the first step, at the start and after a jump, > 0; None sets no bound. The integrator
            estimates a first step from f and takes the shorter of the two.
        max_step: length of the longest step, > 0; None sets no bound. A step sees f at its end only, so it may leap
            over a pulse of f that is shorter than the step, and the status is then still `SUCCESS`: set max_step to the
            length of the pulse. Where f is 0 or constant, each step is three times as long as the one before. The
            output times do not bound a step.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile the device's part of a step, f included, by torch.compile. What
            `AdaptiveExponential` says of compiling holds here, too.
        max_order: largest order k of the predictor, 1 to 8.
        recompute: number of segments of accepted steps that the backward pass recomputes, at most one per step; None
            keeps what every step computed. Each segment keeps one state and the last values of N.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call, a sample failed. The message says which one, at which time, and what to do.

    Source: Nørsett 1969; Hochbruck & Ostermann 2011, Exponential multistep methods of Adams-type. The control of
    order and step follows the variable-order Adams codes of Shampine & Gordon 1975.
    """

    max_order: int = MAX_ORDER
    recompute: int | None = field(default=None, repr=False)  # it changes no value, so it is no part of an architecture

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require_positive_int(self.max_order, "max_order")
        if self.max_order > MAX_ORDER:
            raise ValueError(
                f"max_order must be at most {MAX_ORDER}, got {self.max_order}; lower rtol for more accuracy"
            )

    @property
    def _dense_error(self) -> bool:
        """Always: the correction of the predictor."""
        return True

    def _loop(self, problem: InitialValueProblem) -> "AdamsLoop":
        """The loop of a solve, at its start."""
        from dampode.integrators.exponential.adams_loop import AdamsLoop  # it takes Numba a third of a second to import

        step = compiled_step(try_step) if self.compile else try_step
        return AdamsLoop(problem, step, self.max_order, self.recompute or 1)
