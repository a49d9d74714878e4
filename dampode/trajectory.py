"""`odeint`, `solve` and `odeint_event`: a trajectory of the damped ODE at given times, or up to events."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive_int
from dampode.damping import Matrix
from dampode.dynamics import DampedODEFunc
from dampode.eigen_coordinates import Diagonalized, Eigenbasis, diagonalized, undamped
from dampode.fields import Autonomous
from dampode.integrators import EventSolution, ExponentialAdams, IntegrationError, Integrator, Solution
from dampode.integrators.base import require_field_and_state
from dampode.integrators.event_search import Event, EventMap, EventSettings
from dampode.integrators.jumps import Jumps, require_jumps
from dampode.integrators.sample_times import require_times, without_padding
from dampode.integrators.solution import failure_message, solution_of_batch
from dampode.integrators.to_tolerance import TolerantIntegrator
from dampode.paths import require_cover
from dampode.structures import Flat, Layout, State, Structure, flattened

__all__ = ["in_other_variables", "odeint", "odeint_event", "solve"]


def odeint(
    func: DampedODEFunc,
    x0: State,
    t: Tensor,
    integrator: Integrator = ExponentialAdams(),
    *,
    jumps: Jumps | None = None,
    **torchdiffeq_settings: object,
) -> State:
    """The states of dx/dt = −λ x + ρ(λ) f(x, t), Eq. 4, at the times t.

    With a fixed-step integrator it compiles to one graph. Under ``torch.compile`` it does not check the values of t and
    of the result, because that would read them.

    Args:
        func: the damped vector field. With a step size per sample, f gets its time as (N, 1, ..., 1).
        x0: state at t[0], (N, *S), N samples; one system of D numbers is (1, D). Or a tuple, list or dict of such
            tensors, real or complex, with the same N: f then gets and returns the same structure, `PerPart` gives each
            part its λ, and a step's error is the root mean square over all numbers of a sample.
        t: times, (T,), at least two, strictly increasing or strictly decreasing. Or (N, T): each sample's own times,
            all in one direction. A row with fewer times ends with NaN. The states there are the sample's last one.
        integrator: takes the state from one time to the next. A fixed-step integrator takes ``steps`` steps in every
            interval.
        jumps: times at which the solve stops exactly, changes the state and starts anew; see `Jumps`. The state at a
            jump time is the state after the jump.
        torchdiffeq_settings: none may be given. The error for ``method``, ``rtol`` and others shows how to write them.

    Returns:
        The states, (T, N, *S), x0 first, in the structure of x0.

    Raises:
        ValueError: t is not as above, the state is empty, or f changes the state's shape.
        TypeError: an argument is of the wrong type or dtype, or f changes the state's dtype.
        IntegrationError: a sample did not reach the last time. The message says which one, at which time it stopped,
            and what to do.

    Warns:
        UserWarning: f or λ depends on time, and the state's dtype, in which they get t, rounds times by more than 1e-4
            of their span, and times near 0 would be rounded less.

    Source: Yang et al. 2020, Eq. 4; the argument order is torchdiffeq's.
    """
    _require_no_settings(torchdiffeq_settings)
    func, flat = in_other_variables(func, x0, integrator)
    if flat is not None:
        integrator = integrator.laid_out(flat.tolerance)
        xs = odeint(flat.func, flat.x, t, integrator, jumps=_flat_jumps(jumps, flat.layout))
        return cast(State, flat.layout.unflatten(xs))
    x = cast(Tensor, x0)
    _require(func, x, t, integrator)
    times = without_padding(t)
    require_jumps(jumps, times, x)
    xs = integrator.trajectory(func, x, times, jumps)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(xs).all()):
        raise IntegrationError(str(solution_of_batch(times, xs, 0, 0).failure()))
    return cast(State, xs)


def solve(
    func: DampedODEFunc,
    x0: Structure,
    t: Tensor,
    integrator: Integrator = ExponentialAdams(),
    *,
    jumps: Jumps | None = None,
    dense: bool = False,
) -> Solution:
    """`odeint` with statistics, and with a status per sample instead of an error.

    Args:
        func: the damped vector field.
        x0: state at t[0], as in `odeint`. A sample that is not finite makes the gradients of shared parameters NaN,
            even if the loss ignores that sample: leave it out of the batch.
        t: times, (T,) or (N, T), as in `odeint`.
        integrator: takes the state from one time to the next.
        jumps: as in `odeint`.
        dense: whether to keep the solution between the times as well, for `Solution.at`. This keeps every step.

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
    func, flat = in_other_variables(func, x0, integrator)
    if flat is not None:
        integrator = integrator.laid_out(flat.tolerance)
        put_back = flat.layout.unflatten
        solution = solve(flat.func, flat.x, t, integrator, jumps=_flat_jumps(jumps, flat.layout), dense=dense)
        whole = solution.dense
        if whole is not None and isinstance(flat, Diagonalized):
            whole = replace(whole, has_error=False)  # errors of coordinates are no errors of states
        return replace(solution, x=put_back(solution.x), dense=whole, unflatten=put_back)
    x = cast(Tensor, x0)
    _require(func, x, t, integrator)
    times = without_padding(t)
    require_jumps(jumps, times, x)
    return replace(integrator.solve(func, x, times, jumps, dense), t=t)


def odeint_event(
    func: DampedODEFunc,
    x0: Structure,
    t_span: tuple[float, float] | Tensor,
    event: Event,
    integrator: TolerantIntegrator = ExponentialAdams(),
    *,
    direction: int = 0,
    count: int = 1,
    map: EventMap | None = None,
    jumps: Jumps | None = None,
) -> EventSolution:
    """Where event(t, x) crosses 0 along dx/dt = −λ x + ρ(λ) f(x, t), Eq. 4, for each sample by itself.

    A sample ends at its event with the number ``count``, or at t_span[1] if it has fewer. All samples are solved at
    once. An event is located on the dense output of a step. The step is then taken up to there, and two steps of
    Newton's method along the solution remove what is left of the event function. The dense output is looked at in four
    places per step: two crossings of one function between two places are missed, unless ``max_step`` is set.

    Gradients of the event's time and state are those of the implicit function theorem. They also pass through the map
    to the events after it. They reach x0, the parameters of f, λ, event and map, and t_span. Second derivatives work.
    An event function whose slope along the solution is 0 at the event has no derivative, and its gradients are NaN.

    Args:
        func: the damped vector field.
        x0: state at t_span[0], (N, *S), or a structure as in `odeint`; event and map then get the structure.
        t_span: first and last time: two numbers, (2,), or (N, 2) for each sample.
        event: called as event(t, x) with times (N, 1, ..., 1) and states (N, *S). It returns (N,), or (N, K) for K
            event functions, of which the first to cross counts. It must act on each sample by itself.
        integrator: one to a tolerance: `ExponentialAdams`, `AdaptiveExponential` or `KenCarp4`.
        direction: 1 if only crossings from negative to positive count, −1 if only those from positive to negative, 0
            if both do.
        count: the number of events after which a sample ends.
        map: x ← map(k, t, x) at every event but the last: the numbers k (N,) int64 of the event functions, the times
            (N, 1, ..., 1) and the states. It sees the whole batch; its values count for the samples that are at an
            event. None changes no state. A crossing of 0 by the map itself, or by a jump, is no event.
        jumps: as in `odeint`.

    Returns:
        Where each sample ended, whether with an event, and all events on its way.

    Raises:
        ValueError: an event is 0 at the start, couples samples, or has a wrong shape; otherwise as in `odeint`.
        TypeError: as in `odeint`, or the integrator is none to a tolerance.
        IntegrationError: as in `odeint`.

    Source: Chen, Amos & Nickel 2021, Learning neural event functions for ordinary differential equations (gradients).
    """
    func, flat = in_other_variables(func, x0, integrator)
    if flat is not None:
        integrator = integrator.laid_out(flat.tolerance)
        layout, jumps = flat.layout, _flat_jumps(jumps, flat.layout)
        flat_event, flat_map = layout.flat_event(event), None if map is None else layout.flat_map(map)
        solution = odeint_event(
            flat.func, flat.x, t_span, flat_event, integrator, direction=direction, count=count, map=flat_map,
            jumps=jumps,
        )  # fmt: skip
        return replace(solution, x=layout.unflatten(solution.x), states=layout.unflatten(solution.states))
    require_instance(
        integrator,
        TolerantIntegrator,
        "integrator",
        "events need ExponentialAdams, AdaptiveExponential or KenCarp4, which have a tolerance",
    )
    require_positive_int(count, "count")
    if direction not in (-1, 0, 1):
        raise ValueError(f"direction must be 1 (upward), -1 (downward) or 0 (both), got {direction!r}")
    t = t_span if isinstance(t_span, Tensor) else torch.tensor(t_span, dtype=torch.float64)
    x = cast(Tensor, x0)
    _require(func, x, t, integrator)
    if t.shape[-1] != 2 or bool(torch.isnan(t).any()):
        raise ValueError(f"t_span must be (t0, t1), (2,) or (N, 2), got shape {tuple(t.shape)} or NaN")
    require_jumps(jumps, t, x)
    solution = integrator.solve_events(func, x, t, EventSettings(event, direction, count, map), jumps)
    failure = failure_message(solution.status, solution.t)
    if failure is not None:
        raise IntegrationError(failure)
    return solution


def in_other_variables(
    func: DampedODEFunc, x: Structure, integrator: Integrator
) -> tuple[DampedODEFunc, Flat | Diagonalized | None]:
    """The damped vector field as the integrator solves it, and the problem in other variables if it is not in x.

    Args:
        func: the damped vector field. A damping matrix is diagonalized, or becomes a part of f.
        x: the state, (N, *S), or a structure.
        integrator: the integrator.
    """
    _require_integrator(integrator)
    if isinstance(func, DampedODEFunc) and isinstance(func.damping, Matrix):
        if integrator.exact_damping:
            return func, diagonalized(func, func.damping.value, x)
        func = undamped(func, func.damping.value, x)
    is_native = isinstance(func, DampedODEFunc) and func.damping.is_complex
    if isinstance(x, Tensor) and (is_native or not x.is_complex()):
        return func, None
    return func, flattened(func, x)


def _require_no_settings(settings: Mapping[str, object]) -> None:
    """Raise if torchdiffeq's settings are given to `odeint`, and say how they are written here."""
    if not settings:
        return
    names = {name: repr(value) for name, value in settings.items() if name in ("method", "rtol", "atol", "options")}
    method, given = names.pop("method", "'dopri5'"), "".join(f", {name}={value}" for name, value in names.items())
    events = "; events: odeint_event(func, x0, (t0, t1), event)"
    raise TypeError(
        f"odeint takes its settings from an integrator, got {', '.join(settings)}; write "
        f"odeint(DampedODEFunc(f, Constant(0.0)), x0, t, TorchDiffEq({method}{given}))"
        f"{events if 'event_fn' in settings else ''}"
        '; see "From torchdiffeq" in the documentation'
    )


def _require(func: DampedODEFunc, x0: Tensor, t: Tensor, integrator: Integrator) -> None:
    """Raise unless the arguments of a solve are valid."""
    require_field_and_state(func, x0)
    _require_integrator(integrator)
    require_times(t, x0)
    if torch.compiler.is_compiling():
        return
    eps = torch.finfo(x0.dtype).eps
    times = without_padding(t.detach())
    require_cover(func, times[..., 0], times[..., -1])
    latest, span = times.abs().amax(-1), (times[..., -1] - times[..., 0]).abs()
    resolved = eps * latest
    # a row with only one time has no span and is not solved
    coarse = (resolved > max(1e-4, 2 * eps) * span) & (span > 0)
    if bool(coarse.any()) and _depends_on_time(func):
        n = int(coarse.reshape(-1).long().argmax())
        late, error, length = (value.reshape(-1)[n].item() for value in (latest, resolved, span))
        warnings.warn(
            f"f and λ get t in the state's dtype, and {x0.dtype} rounds times near {late:g} by {error:.1g}, of a span "
            f"of {length:.3g}: let times begin near 0, or use a float64 state",
            stacklevel=3,
        )


def _require_integrator(integrator: object) -> None:
    """Raise unless it is an integrator."""
    require_instance(
        integrator, Integrator, "integrator", "take one from dampode.integrators, such as TorchDiffEq('dopri5')"
    )


def _flat_jumps(jumps: Jumps | None, layout: Layout | Eigenbasis) -> Jumps | None:
    """The jumps of a structure as jumps of its flat form."""
    if not isinstance(jumps, Jumps) or jumps.map is None:
        return jumps
    change = jumps.map
    return replace(jumps, map=lambda j, x: layout.flatten(change(j, layout.unflatten(x)), "the state after a jump"))


def _depends_on_time(func: DampedODEFunc) -> bool:
    """Whether f or λ may depend on time."""
    return func.damping.depends_on_time or not isinstance(func.f, Autonomous)
