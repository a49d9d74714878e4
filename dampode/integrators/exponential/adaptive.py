"""The adaptive exponential method: Eq. 4 to a tolerance, with a step size per sample."""

from dataclasses import dataclass, field

from dampode.integrators.adaptive_loop import InitialValueProblem
from dampode.integrators.exponential.compiled import compiled_step
from dampode.integrators.exponential.loop import ExponentialLoop
from dampode.integrators.exponential.recomputing import RecomputingIntegrator
from dampode.integrators.exponential.step import try_step

__all__ = ["AdaptiveExponential"]


@dataclass(frozen=True)
class AdaptiveExponential(RecomputingIntegrator):
    """Krogstad's fourth-order exponential method with an error estimate and a step size per sample.

    Damping is exact, so the step size follows f and not λ: for ρ = 1 the calls of f stop growing with λ. With ρ = 1 + λ
    the vector field is as stiff as the damping. An explicit method then needs about ρ Lip(f) (t1 − t0) steps, and
    their errors may add up beyond the tolerance. Use `KenCarp4` there.

    The error of a step is estimated as

        u h 2φ_2(−hλ) [ |N(x⁺, t+h) − N_4| / 6 + (1 − 0.8 φ_1(−hλ)) |D| / 20 ],

    where D is the third difference of N across this step and the last one. The first term measures how far the stages
    disagree. The second term measures the change of f with t, which cannot make the stages disagree because they share
    their times. The factor u >= 1 grows where ρJ, with J = ∂f/∂x, opposes the damping. The root mean square of the
    estimate over a sample is kept below atol + rtol |x|. This bounds the error of each step, not the sum of the errors.
    Where ρ f undoes the damping and the state hardly moves (`is_creeping`), this sum is watched: a solve warns if the
    estimates of such steps add up to more than ten tolerances.

    N(x⁺, t+h) is N_1 of the next step, so an accepted step costs four calls of f. At λ = 0 the method is the classical
    Runge-Kutta method. Samples of a batch do not influence one another if f acts on each sample by itself. Samples that
    are done are kept in the batch: f always sees the whole batch, with samples at different times. Fields
    that couple samples, such as batch norm in train mode, and random fields are refused where a probe finds them.

    Gradients flow through the accepted steps to the state, to the parameters of f and λ and, in `odeint`, to the times.
    The gradients with respect to the times are those of the exact flow. Double backward works.

    Args:
        rtol, atol: tolerances relative to |x| and absolute, > 0.
        max_steps: largest number of steps that a sample may try, accepted and rejected together.
        first_step: bound of the first step, at the start and after a jump, > 0; None sets no bound. The integrator
            estimates a first step from f and takes the shorter of the two.
        max_step: length of the longest step, > 0; None sets no bound. Where f is 0 or constant, each step is ten times
            as long as the one before and may leap over a pulse of f: set max_step to the length of the pulse. The
            output times do not bound a step.
        progress: whether to show a tqdm bar of the slowest sample's time.
        compile: whether to compile a whole step, f included, by torch.compile. A step's own cost then falls several
            times over. The first solve takes seconds to compile, and so does the first one with a new field, shape or
            dtype, and the first with and without gradients. A CPU needs a C++ compiler, a GPU needs Triton.
            torch.compile gives up on the ninth f of different code in a process; that f runs uncompiled. A
            counter of f's calls in an int attribute of a module is no different code.
        recompute: number of segments of accepted steps that the backward pass recomputes, at most one per step; None
            keeps what every step computed. With a number, the solve runs without a graph, and its accepted steps are
            then taken again in segments. This costs two more passes of f and gives the same gradients. About √N
            segments for N steps keep about √N states.

    Raises:
        ValueError, TypeError: a setting out of its range or of the wrong type.
        IntegrationError: in a call, a sample failed. The message says which one, at which time, and what to do.

    Source: Krogstad 2005, Eq. 51; the estimate and the control are described above; PI control: Gustafsson 1991.
    """

    recompute: int | None = field(default=None, repr=False)  # it changes no value, so it is no part of an architecture

    @property
    def _dense_error(self) -> bool:
        """Always: the third difference of N."""
        return True

    def _loop(self, problem: InitialValueProblem) -> ExponentialLoop:
        """The loop of a solve, at its start."""
        step = compiled_step(try_step) if self.compile else try_step
        return ExponentialLoop(problem, step, self.recompute or 1)
