"""`odeint` and `solve`: a trajectory of the damped ODE at given times, by any integrator."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.fields import Autonomous
from dampode.integrators import AdaptiveExponential, IntegrationError, Integrator, Solution
from dampode.integrators.base import require_field_and_state
from dampode.integrators.solution import solution_of_batch

__all__ = ["odeint", "solve"]


def odeint(
    func: DampedODEFunc,
    x0: Tensor,
    t: Tensor,
    integrator: Integrator = AdaptiveExponential(),
    **torchdiffeq_settings: object,
) -> Tensor:
    """The states of dx/dt = −λ x + ρ(λ) f(x, t), Eq. 4, at the times t.

    With a fixed-step integrator it compiles to one graph. Under ``torch.compile`` it does not check the values of t and
    of the result, because that would read them.

    Args:
        func: the damped vector field. With a step size per sample, f gets its time as (N, 1, ..., 1).
        x0: state at t[0], (N, *S), N samples; one system of D numbers is (1, D).
        t: times, (T,), at least two, strictly increasing or strictly decreasing.
        integrator: takes the state from one time to the next. A fixed-step integrator takes ``steps`` steps in every
            interval.
        torchdiffeq_settings: none may be given. The error for ``method``, ``rtol`` and others shows how to write them.

    Returns:
        The states, (T, N, *S), x0 first.

    Raises:
        ValueError: t is not as above, the state is empty, or f changes the state's shape.
        TypeError: an argument is of the wrong type or dtype, or f changes the state's dtype.
        IntegrationError: a sample did not reach the last time. The message says which one, at which time it stopped,
            and what to do.

    Warns:
        UserWarning: f depends on time, and the state's dtype, in which f gets t, rounds times by more than 1e-4 of
            their span, and times near 0 would be rounded less.

    Source: Yang et al. 2020, Eq. 4; the argument order is torchdiffeq's.
    """
    _require_no_settings(torchdiffeq_settings)
    _require(func, x0, t, integrator)
    xs = integrator.trajectory(func, x0, t)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(xs).all()):
        raise IntegrationError(str(solution_of_batch(t, xs, 0, 0).failure()))
    return xs


def solve(func: DampedODEFunc, x0: Tensor, t: Tensor, integrator: Integrator = AdaptiveExponential()) -> Solution:
    """`odeint` with statistics, and with a status per sample instead of an error.

    Args:
        func: the damped vector field.
        x0: state at t[0], (N, *S), N samples; one system of D numbers is (1, D). A sample that is not finite makes the
            gradients of shared parameters NaN, even if the loss ignores that sample: leave it out of the batch.
        t: times, (T,), at least two, strictly increasing or strictly decreasing.
        integrator: takes the state from one time to the next.

    Returns:
        The states, the calls of f, the steps and the status of every sample. An integrator that steps the whole batch
        at once gives every sample the same counts. If a torchdiffeq method to a tolerance fails, the whole batch fails:
        every sample has the failed status, at t[0].

    Raises:
        ValueError, TypeError: as in `odeint`.
        IntegrationError: torchdiffeq refuses the options of a `TorchDiffEq`.

    Warns:
        StiffnessWarning: f is too stiff for an explicit method. The message gives what was measured.
        UserWarning: as in `odeint`.

    Source: Yang et al. 2020, Eq. 4.
    """
    _require(func, x0, t, integrator)
    return integrator.solve(func, x0, t)


def _require_no_settings(settings: Mapping[str, object]) -> None:
    """Raise if torchdiffeq's settings are given to `odeint`, and say how they are written here."""
    if not settings:
        return
    names = {name: repr(value) for name, value in settings.items() if name in ("method", "rtol", "atol", "options")}
    method, given = names.pop("method", "'dopri5'"), "".join(f", {name}={value}" for name, value in names.items())
    events = "; events: torchdiffeq.odeint_event(func, x0, t0, event_fn=...) takes func as it is"
    raise TypeError(
        f"odeint takes its settings from an integrator, got {', '.join(settings)}; write "
        f"odeint(DampedODEFunc(f, Constant(0.0)), x0, t, TorchDiffEq({method}{given}))"
        f"{events if 'event_fn' in settings else ''}"
    )


def _require(func: DampedODEFunc, x0: Tensor, t: Tensor, integrator: Integrator) -> None:
    """Raise unless the arguments of a solve are valid."""
    require_field_and_state(func, x0)
    require_instance(
        integrator, Integrator, "integrator", "take one from dampode.integrators, such as TorchDiffEq('dopri5')"
    )
    require_instance(t, Tensor, "t", "use torch.tensor or torch.linspace")
    if not t.is_floating_point():
        raise TypeError(f"t must be floating, got dtype {t.dtype}; convert it with t.double()")
    if t.ndim != 1 or len(t) < 2:
        raise ValueError(f"t must be (T,) with at least two times, got shape {tuple(t.shape)}")
    if x0.is_meta or t.is_meta:
        raise ValueError(
            "a solve reads values, got a tensor on the meta device, which has none; move x0 and t to a device, or call "
            "a DampedBlock with a fixed step, which reads none"
        )
    if torch.compiler.is_compiling():
        return
    if not bool(torch.isfinite(t).all()):
        raise ValueError(f"t must be finite, got {t.tolist()}")
    step = t.diff()
    if not bool((step > 0).all() | (step < 0).all()):
        first = int(torch.nonzero(step * (step.sum().sign() or 1) <= 0)[0])
        raise ValueError(
            f"t must increase strictly or decrease strictly, got t[{first}] = {t[first].item():g} and "
            f"t[{first + 1}] = {t[first + 1].item():g}; sort it and drop repeated times"
        )
    eps = torch.finfo(x0.dtype).eps
    resolved = eps * t.abs().max().item()
    span = abs(t[-1].item() - t[0].item())
    if resolved > max(1e-4, 2 * eps) * span and not isinstance(func.f, Autonomous):
        warnings.warn(
            f"f gets t in the state's dtype, and {x0.dtype} rounds times near {t.abs().max().item():g} by "
            f"{resolved:.1g}, of a span of {span:.3g}: let times begin near 0, or use a float64 state",
            stacklevel=3,
        )
