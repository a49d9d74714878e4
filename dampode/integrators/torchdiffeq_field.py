"""The vector field as torchdiffeq calls it: calls counted, failures explained, stiffness measured."""

from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.integrators.base import IntegrationError
from dampode.integrators.randomness import repeats
from dampode.integrators.recompute import OutsideTensors
from dampode.integrators.solution import Status
from dampode.integrators.torchdiffeq_adjoint import AdjointWatch
from dampode.integrators.torchdiffeq_stiffness import StiffnessWatch

__all__ = ["WatchedField"]

_CALLBACKS = tuple(
    f"callback_{event}{end}" for event in ("step", "accept_step", "reject_step") for end in ("", "_adjoint")
)
"""Methods that torchdiffeq looks for in the vector field and calls with (t, x, dt)."""

_PROBE = 64
"""The call after which f is probed for randomness, as well as at the end of a solve."""

_STATUS = {
    "underflow in dt": Status.STEP_UNDERFLOW,
    "max_num_steps": Status.MAX_STEPS,
    "non-finite values": Status.NOT_FINITE,
    "stopped": Status.STEP_UNDERFLOW,
}
"""The status for each message of torchdiffeq, by a part of the message."""


class WatchedField:
    """The vector field as torchdiffeq calls it. It counts calls, and remembers what explains a failure."""

    def __init__(
        self,
        func: DampedODEFunc,
        method: str,
        times: Tensor,
        max_steps: int | None,
        check_adjoint: bool,
        is_adaptive: bool,
    ) -> None:
        self.func, self.calls, self._method = func, 0, method
        self._times, self._max_steps = times.detach(), max_steps
        self._check_adjoint, self._is_adaptive = check_adjoint, is_adaptive
        self.stiffness = StiffnessWatch(self._again)
        self._first: tuple[Tensor, Tensor, Tensor] | None = None
        self.own_error: AssertionError | None = None  # raised by f, not by torchdiffeq
        self._message: str | None = None  # of torchdiffeq, when it gave up
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=16)  # a step of dopri8 has 14 stages

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt."""
        self.calls += 1
        try:
            dx = self._checked_rate(t, x) if self._check_adjoint else self.func(t, x)
        except AssertionError as error:
            self.own_error = error
            raise
        if self._first is None:
            self._first = t.detach(), x.detach(), dx.detach()
        self._recent.append((t.detach(), dx.detach()))
        if self.calls == _PROBE:  # a solve of a random field may never end
            self.require_repeatable()
        self.stiffness.see_call(t, x, dx)
        return dx

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A callback of the user for torchdiffeq, and a watch over the steps of the adjoint."""
        if name not in _CALLBACKS:
            raise AttributeError(name)
        callback: Callable[..., None] | None = getattr(self.func, name, None) or self.func.f.callback(name)
        if name == "callback_step_adjoint" and self._method != "scipy_solver":  # which knows no callbacks
            return AdjointWatch(callback, self._times, self._max_steps)
        if name == "callback_accept_step" and self._is_adaptive and self._method != "scipy_solver":
            return partial(self._accept, callback)
        if callback is None:
            raise AttributeError(name)
        return callback

    def _accept(self, callback: Callable[..., None] | None, t: Tensor, x: Tensor, dt: Tensor) -> None:
        """Measure an accepted step, then call the user's callback, if any."""
        self.stiffness.see_step(dt.item())
        if callback is not None:
            callback(t, x, dt)

    def require_repeatable(self) -> None:
        """Raise if f gives other values when called again where it was called first.

        This takes one call, and more if f draws random numbers, which may be the same by chance. Methods with a fixed
        step take random fields.
        """
        if self._first is None or not self._is_adaptive:
            return
        t, x, before = self._first
        finite = torch.isfinite(before)
        limit = 100 * torch.finfo(x.dtype).eps * torch.where(finite, before, 0.0).abs().max()
        with torch.no_grad():
            for again in repeats(lambda: self._again(t, x), x):
                if bool((finite & ~((again - before).abs() <= limit)).any()):
                    raise ValueError(
                        "a tolerance needs an f without randomness, such as dropout or noise, got an f that gives "
                        f"other values when called again at t = {t.item():g} and the same state; call .eval() on it, "
                        "draw the noise before the solve, or take a fixed step"
                    )

    def _again(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt for a measurement, counted."""
        self.calls += 1
        dx: Tensor = self.func(t, x)
        return dx

    def _checked_rate(self, t: Tensor, x: Tensor) -> Tensor:
        """dx/dt at the first call, or a ValueError if the continuous adjoint would drop a gradient."""
        self._check_adjoint = False
        with torch.enable_grad():
            dx: Tensor = self.func(t, x.detach())
        outside = OutsideTensors((dx,), self.func.parameters())
        dx = dx.detach()
        outside.require_none("adjoint=True")
        return dx

    def failure(self, method: str, message: str) -> IntegrationError:
        """The error of a solve, from the last values of the vector field and the message of torchdiffeq."""
        self._message, bad = message, self._first_nonfinite()
        if bad is None:
            return IntegrationError(
                f"torchdiffeq's {method} could not continue ({message}); the problem is stiff or diverges: loosen rtol "
                "and atol, or use an exponential integrator, which takes damping exactly"
            )
        t, samples = bad
        return IntegrationError(
            f"the vector field gave NaN or infinity at t = {t:g} in {len(samples)} samples of the batch, the first at "
            f"index {samples[0]}; check the input and f there"
        )

    def status(self, x: Tensor) -> Status | None:
        """The status of a solve from x that torchdiffeq gave up; None if it did not, or refused the options."""
        if self._message is None:
            return None
        if not bool(torch.isfinite(x).all()) or self._first_nonfinite() is not None:
            return Status.NOT_FINITE
        return next((status for words, status in _STATUS.items() if words in self._message), None)

    def _first_nonfinite(self) -> tuple[float, list[int]] | None:
        """The time and the samples of the first of the recent values that is not finite; None if all are finite."""
        for t, dx in self._recent:
            bad = ~torch.isfinite(dx.reshape(len(dx), -1)).all(1)
            if bool(bad.any()):
                return t.item(), torch.nonzero(bad).flatten().tolist()
        return None
