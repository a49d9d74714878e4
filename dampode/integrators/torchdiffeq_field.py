"""The vector field as torchdiffeq calls it: calls counted, failures explained, stiffness measured."""

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from dampode.dynamics import DampedODEFunc
from dampode.fields import Autonomous, TimeDependent
from dampode.integrators.base import IntegrationError
from dampode.integrators.randomness import repeats
from dampode.integrators.recompute import OutsideTensors
from dampode.integrators.solution import Status
from dampode.integrators.stiff_steps import BOUND, are_stiff, relative_change, warn_of_stiff_steps
from dampode.integrators.torchdiffeq_adjoint import AdjointWatch

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
        check_random: bool,
    ) -> None:
        self.func, self.calls, self._method = func, 0, method
        self._times, self._max_steps = times.detach(), max_steps
        self._check_adjoint, self._check_random = check_adjoint, check_random
        self._last: tuple[float, Tensor, Tensor] | None = None
        self._pair_time = math.nan
        self.steps, self.stiff_steps = 0, 0
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
        self._measure_stiffness(t.item(), x.detach(), dx.detach())
        return dx

    def __getattr__(self, name: str) -> Callable[..., None]:
        """A callback of the user for torchdiffeq, and a watch over the steps of the adjoint."""
        if name not in _CALLBACKS:
            raise AttributeError(name)
        f = self.func.f
        owners = (self.func, f, f.f) if isinstance(f, Autonomous | TimeDependent) else (self.func, f)
        callback: Callable[..., None] | None = next(
            (found for owner in owners if (found := getattr(owner, name, None)) is not None), None
        )
        if name == "callback_step_adjoint" and self._method != "scipy_solver":  # which knows no callbacks
            return AdjointWatch(callback, self._times, self._max_steps)
        if callback is None:
            raise AttributeError(name)
        return callback

    @torch.no_grad()
    def _measure_stiffness(self, t: float, x: Tensor, dx: Tensor) -> None:
        """Compare two stages at one time, as a step of most methods has them. The last such time is a step away."""
        last, self._last = self._last, (t, x, dx)
        if last is None or last[0] != t or last[1].shape != x.shape:
            return
        h, self._pair_time = abs(t - self._pair_time), t
        apart, size = (v.norm() for v in (x - last[1], x))
        growth = relative_change((dx - last[2])[None], (x - last[1])[None])
        known = apart > 100 * torch.finfo(x.dtype).eps * size
        self.steps, self.stiff_steps = self.steps + 1, self.stiff_steps + int(known & (h * growth > BOUND))

    def require_repeatable(self) -> None:
        """Raise if f gives other values when called again where it was called first.

        This takes one call, and more if f draws random numbers, which may be the same by chance. Methods with a fixed
        step take random fields.
        """
        if self._first is None or not self._check_random:
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
        """dx/dt for a check, counted."""
        self.calls += 1
        dx: Tensor = self.func(t, x)
        return dx

    def warn_if_stiff(self, has_gradient: bool) -> None:
        """Warn if stability bounded many steps."""
        if are_stiff(self.stiff_steps, self.steps):
            warn_of_stiff_steps(self.stiff_steps, self.steps, "of the batch", has_gradient)

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
