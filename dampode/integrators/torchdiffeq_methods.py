"""torchdiffeq's solvers as an integrator of the damped ODE."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.dynamics import DampedODEFunc
from dampode.functional import Scalar
from dampode.integrators.base import IntegrationError, Integrator, LayOut, require_call, require_single
from dampode.integrators.dense_solution import require_no_dense
from dampode.integrators.jumps import Jumps, require_no_jumps
from dampode.integrators.sample_times import require_shared
from dampode.integrators.solution import Solution, solution_of_batch
from dampode.integrators.tolerance import Tolerance, Tolerances, require_tolerance
from dampode.integrators.torchdiffeq_adjoint import require_digits, require_whole
from dampode.integrators.torchdiffeq_field import WatchedField
from dampode.integrators.torchdiffeq_scipy import solved_by_scipy

__all__ = ["TorchDiffEq"]

_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams")
"""Methods with a fixed step."""

_OPTIONS = {"explicit_adams": {"max_order": 4}}
"""Our defaults. torchdiffeq's default order 12 makes its Adams-Bashforth method unstable at nearly any step."""

_COARSE_BETWEEN = ("bosh3", "dopri8")
"""Methods whose polynomial inside a step is far less accurate than the step itself."""


@dataclass(frozen=True)
class TorchDiffEq(Integrator):
    """Any method that the installed torchdiffeq offers, through its public ``odeint`` or ``odeint_adjoint``.

    The whole batch shares one step size, so the result of a sample depends, within the tolerance, on the other samples.
    torchdiffeq steps over the times and interpolates. bosh3 and dopri8 interpolate too coarsely, so here they end a
    step at every time.
    Where λ is large, explicit methods need a number of steps proportional to λ(t1 − t0); dopri5 needs about a third of
    it.

    Args:
        method: a torchdiffeq method, "dopri5", "rk4", ...
        rtol, atol: tolerances of an adaptive method, > 0: numbers, or tensors that broadcast to the state. For a
            structured state also a tuple, list or dict of these, a value for each part. The backward pass of the
            adjoint takes the smallest of them.
        adjoint: whether gradients come from the continuous adjoint instead of backpropagation through the steps. The
            adjoint re-integrates the state backwards from each output time to the one before. Memory stays constant,
            but damping makes errors grow like e^{λΔt}, so gradients lose accuracy quickly as λΔt grows
            (docs/gradients.md has measured errors). If e^{λΔt} times the dtype's rounding error exceeds 1, no digit of
            the state is left, and a solve that wants gradients raises an error. Gradients reach the state and the
            parameters of f and λ only. If the first call of f uses another tensor that wants one, the solve raises an
            error.
        options: torchdiffeq's own options of the method, such as {"step_size": 0.1}. explicit_adams has order 4 by
            default here, because torchdiffeq's default 12 is unstable. {"norm": "seminorm"} is for adjoint=True: the
            backward pass then controls the error of the state and its gradient, not that of the parameters' gradients.

    torchdiffeq's callbacks, such as ``callback_step(t, x, dt)``, are methods of ``func`` or of f.

    Raises:
        ValueError: torchdiffeq has no such method (the message lists the installed ones), a tolerance is not above 0,
            or the norm is "seminorm" without adjoint. In a solve with adjoint: f uses a tensor that wants a gradient
            and is no parameter, a parameter is sharded, or the backward pass would amplify rounding errors beyond the
            dtype's digits.
        TypeError: a setting is of the wrong type; in a solve to a tolerance, the state is of half precision.
        IntegrationError: in a call or `odeint`, f gives NaN or infinity, or the step size underflows; also in `solve`,
            torchdiffeq refuses the options. In the backward pass with adjoint: the state cannot be integrated back.

    Warns:
        UserWarning: gradients are wanted from scipy_solver without the adjoint, which gives none; or the method is
            fehlberg2, whose answers are commonly 100 tolerances off.
        StiffnessWarning: stability bounded many steps, or gradients pass through a state at rest in unstable steps.

    Source: Chen et al. 2018; https://github.com/rtqichen/torchdiffeq.
    """

    method: str = "dopri5"
    rtol: Tolerances = field(default=1e-5, hash=False)
    atol: Tolerances = field(default=1e-7, hash=False)
    adjoint: bool = False
    options: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Check the settings. The installed torchdiffeq checks the method."""
        require_instance(self.method, str, "method")
        require_instance(self.adjoint, bool, "adjoint")
        if self.options is not None:
            require_instance(self.options, Mapping, "options")
        if not self.adjoint and self._norm == "seminorm":
            raise ValueError(
                'the norm "seminorm" needs adjoint=True, because it leaves the gradients of the parameters out of the '
                "error of the backward pass, got adjoint=False; set adjoint=True, or leave norm out"
            )
        require_tolerance(self.rtol, "rtol")
        require_tolerance(self.atol, "atol")
        import torchdiffeq  # it imports much of SciPy

        try:
            # torchdiffeq refuses an unknown method with a list of the installed ones
            torchdiffeq.odeint(lambda t, y: y, torch.zeros(1), torch.zeros(1), method=self.method)
        except ValueError as error:
            raise ValueError(f"method must be one that the installed torchdiffeq offers: {error}") from None

    def laid_out(self, flat: LayOut) -> Self:
        """This integrator with the tolerances of a structured state laid out as the state is."""
        return replace(self, rtol=flat(self.rtol, "rtol"), atol=flat(self.atol, "atol"))

    def __call__(self, func: DampedODEFunc, x: Tensor, t0: float, t1: float) -> Tensor:
        """The state at t1."""
        require_call(func, x, t0, t1)
        if t0 == t1:
            return x
        times = torch.tensor([t0, t1], dtype=torch.float64, device=x.device)
        return self.trajectory(func, x, times)[-1]

    def trajectory(self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None) -> Tensor:
        """The states at strictly monotonic ``times`` (T,): (T, N, *S), x first."""
        _require_shared(times, jumps)
        field = self._watched(func, times)
        xs = self._integrated(field, x, times)
        if not bool(torch.isfinite(xs).all()):
            raise field.failure(self.method, "the state is not finite")
        return xs

    def solve(
        self, func: DampedODEFunc, x: Tensor, times: Tensor, jumps: Jumps | None = None, dense: bool = False
    ) -> Solution:
        """The states with the calls of f and a status per sample. If torchdiffeq gives up, all samples fail at t[0]."""
        _require_shared(times, jumps)
        require_no_dense(dense, "TorchDiffEq", "take ExponentialAdams, KenCarp4 or a fixed step")
        field = self._watched(func, times)
        try:
            xs = self._integrated(field, x, times)
        except IntegrationError:
            status = field.status(x)
            if status is None:
                raise
            xs = torch.cat((x[None], x.new_full((len(times) - 1, *x.shape), torch.nan)))
            return replace(solution_of_batch(times, xs, field.calls, -1), status=(status,) * len(x))
        return solution_of_batch(times, xs, field.calls, -1)

    def _watched(self, func: DampedODEFunc, times: Tensor) -> WatchedField:
        """The vector field as torchdiffeq will call it."""
        check_adjoint = self.adjoint and torch.is_grad_enabled()
        max_steps = (self.options or {}).get("max_num_steps")
        return WatchedField(func, self.method, times, max_steps, check_adjoint, self.method not in _FIXED)

    def _stops(self, func: DampedODEFunc, times: Tensor) -> Tensor:
        """The times inside a solve at which a method to a tolerance must stop, (J,)."""
        breaks = func.breaks()
        if breaks is None or self.method in _FIXED:
            return times.new_empty(0)
        low, high = times.detach().aminmax()
        inside: Tensor = breaks[(breaks > low) & (breaks < high)].to(times).unique()
        if len(inside) and self.method == "scipy_solver":
            raise ValueError(
                f"scipy_solver cannot stop where f or λ is discontinuous, such as t = {inside[0].item():g}, and may "
                "miss a pulse; take another method, or ExponentialAdams"
            )
        return inside

    @property
    def _norm(self) -> object:
        """The norm among the options, None if there is none."""
        return (self.options or {}).get("norm")

    def _options(self, times: Tensor) -> dict[str, Any]:
        """The options of the forward pass."""
        options = {**_OPTIONS.get(self.method, {}), **(self.options or {})}
        if self._norm == "seminorm":
            del options["norm"]
        return _with_ends(_just_past(times), options) if self.method in _COARSE_BETWEEN else options

    def _adjoint_options(self, times: Tensor) -> dict[str, Any]:
        """The options of the backward pass. `AdjointWatch` bounds its steps."""
        options = {**_OPTIONS.get(self.method, {}), **(self.options or {})}
        options.pop("max_num_steps", None)
        if self._norm != "seminorm":
            options.pop("norm", None)
        if self.method not in _COARSE_BETWEEN:
            return options
        # torchdiffeq negates decreasing times, but not the ends in a backward pass
        ends = times if bool(times[1] > times[0]) else -times
        return _with_ends(ends.detach().double(), options)

    def _integrated(self, field: WatchedField, x: Tensor, times: Tensor) -> Tensor:
        """The states from torchdiffeq, (T, N, *S), or an IntegrationError if it gives up."""
        if self.method not in _FIXED:
            require_single(x)
        if self.method == "scipy_solver" and not bool(torch.isfinite(x).all()):
            raise IntegrationError("scipy_solver needs a finite initial state, got NaN or infinity; check the input")
        if self.adjoint:
            require_digits(field.func, x, times)
            require_whole(field.func.parameters())
        tol = Tolerance.of(self.rtol, self.atol, x)
        settings: dict[str, Any] = {"rtol": tol.rtol, "atol": tol.atol, "method": self.method}
        stops = self._stops(field.func, times)
        settings["options"] = _with_jumps(stops, self._options(times))
        if self.method == "scipy_solver":  # SciPy takes a value for each of its numbers
            settings |= {name: _in_a_row(settings[name], x) for name in ("rtol", "atol")}
        if self.adjoint:
            params = tuple(p for p in field.func.parameters() if p.requires_grad)
            sign = 1.0 if bool(times[1] > times[0]) else -1.0  # as in `_adjoint_options`
            settings |= {
                "adjoint_params": params,
                "adjoint_options": _with_jumps(stops * sign, self._adjoint_options(times)),
            }
            settings |= {"adjoint_rtol": tol.smallest_rtol, "adjoint_atol": tol.smallest_atol}
        import torchdiffeq

        odeint: Callable[..., Tensor] = torchdiffeq.odeint_adjoint if self.adjoint else torchdiffeq.odeint
        try:
            if self.method == "scipy_solver":
                xs = solved_by_scipy(odeint, field, x, times, **settings)
            else:
                xs = odeint(field, x, times, **settings)
        except AssertionError as error:
            if error is field.own_error:
                raise
            field.require_repeatable()
            raise field.failure(self.method, str(error)) from None
        field.require_repeatable()
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in (x, *field.func.parameters()))
        if self.method == "scipy_solver" and wanted and not xs.requires_grad:
            warnings.warn(
                "scipy_solver goes through NumPy: the state and the parameters, which want gradients, get none; use "
                "adjoint=True or another method, or torch.no_grad() where none are needed",
                stacklevel=4,
            )
        field.stiffness.warn(xs.requires_grad)
        if self.method == "fehlberg2":
            warnings.warn(
                "fehlberg2 estimates about a hundredth of its error, so its answers are commonly 100 tolerances off; "
                "take dopri5 or bosh3, or divide rtol and atol by 100",
                stacklevel=4,
            )
        if len(xs) < len(times):  # SciPy's solvers leave out what they did not reach
            raise field.failure(self.method, f"stopped after {len(xs)} of {len(times)} times")
        return xs


def _in_a_row(tolerance: Scalar, x: Tensor) -> Any:
    """A tolerance as a number, or as a NumPy array of one value for the clock of `solved_by_scipy` and x's values."""
    if not isinstance(tolerance, Tensor):
        return tolerance
    row = tolerance.expand_as(x).reshape(-1)
    return torch.cat((row[:1], row)).cpu().numpy()


def _require_shared(times: Tensor, jumps: Jumps | None) -> None:
    """Raise where samples would need their own steps, or a step would have to end at a jump."""
    require_shared(times, "TorchDiffEq")
    require_no_jumps(jumps, "TorchDiffEq")


def _just_past(times: Tensor) -> Tensor:
    """Where steps end so that no time but the first is inside a step, (T − 1,).

    torchdiffeq overlooks all further ends after a step that ends at one by chance, so the ends are no round numbers.
    """
    times = times.detach().double()
    span = times[-1] - times[0]
    return torch.nextafter(times[1:] + torch.finfo(times.dtype).eps * span, span * torch.inf)


def _with_ends(ends: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """The options with more ends of steps."""
    others = options.get("step_t", ends)
    return {**options, "step_t": torch.cat((ends, torch.as_tensor(others).to(ends))).unique()}


def _with_jumps(jumps: Tensor, options: dict[str, Any]) -> dict[str, Any]:
    """The options with more times at which f is discontinuous. torchdiffeq takes no time as a jump and an end."""
    if len(jumps) == 0:
        return options
    jumps = torch.cat((jumps, torch.as_tensor(options.get("jump_t", jumps)).to(jumps))).unique()
    ends = torch.as_tensor(options.get("step_t", jumps[:0])).to(jumps)
    return {**options, "jump_t": jumps, "step_t": ends[~torch.isin(ends, jumps)]}
