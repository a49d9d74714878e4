"""A recurrent cell: the state follows a damped ODE between observations, and an observation updates it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_nonnegative, require_positive_int
from dampode.damping import Damping
from dampode.dynamics import DampedODEFunc
from dampode.fields import VectorField, as_field
from dampode.integrators import ExponentialEuler, Integrator
from dampode.sequence.forgetting import InputGated, TimeScales, as_damping
from dampode.sequence.steps import Steps
from dampode.weighting import Weighting, proportional

__all__ = ["DampedCell", "RestState"]


class RestState(VectorField):
    """f = b per channel, trained, 0 at the start. With ρ(λ) = λ the state decays to b.

    Args:
        channels: number of channels.

    Raises:
        ValueError, TypeError: channels is not a positive int.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive_int(channels, "channels")
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """B for every sample, (N, channels)."""
        return self.value.to(x.dtype).expand_as(x)


class DampedCell(nn.Module):
    """One observation: h' = −λh + ρ(λ) f(h, t) over the gap Δt before it, then h ← update(u, h).

    The defaults decay exactly, by Eq. 8, to a trained rest state b: h(t + Δt) = b + e^{−λΔt} (h(t) − b), with one λ per
    channel; the update is a GRU cell. The other cells of the field are other choices of the parts:

    - ODE-RNN: ``DampedCell(C, H, Constant(0.0), field=f, rho=weighting.unit, integrator=AdaptiveExponential())``
    - GRU-ODE: λ = 1 − z(h) gated by the state, ρ(λ) = λ, f the candidate of a GRU, and the same integrator.

    Args:
        input_size: number of values per observation, C.
        hidden_size: number of channels of the state, H.
        damping: (shortest, longest) time 1/λ at the start, in the unit of the data's times, which makes
            `learned_time_scales`; or any `Damping`; or an `InputGated`.
        masked: whether the update reads a mask per value (N, C), which doubles its inputs u.
        field: f between observations, a `VectorField` or a callable of the state; None makes a `RestState`.
        rho: the weight function ρ. The default ρ(λ) = λ makes f the state to which h decays.
        integrator: takes the state over the gap. The default is exact while f is constant.
        update: a module (u, h) -> h, such as `torch.nn.RNNCell`; None makes a `torch.nn.GRUCell`.

    Raises:
        ValueError, TypeError: a size is no positive int, or a part is of the wrong type.

    Source: Yang et al. 2020, Eqs. 4 and 8; Che et al. 2018 and Rubanova et al. 2019 for cells of this form.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        damping: TimeScales | Damping | InputGated,
        *,
        masked: bool = False,
        field: VectorField | Callable[[Tensor], Tensor] | None = None,
        rho: Weighting = proportional,
        integrator: Integrator = ExponentialEuler(),
        update: nn.Module | None = None,
    ) -> None:
        super().__init__()
        require_positive_int(input_size, "input_size")
        require_positive_int(hidden_size, "hidden_size")
        require_instance(masked, bool, "masked")
        require_instance(integrator, Integrator, "integrator", "take one from dampode.integrators")
        self.input_size, self.hidden_size, self.masked = input_size, hidden_size, masked
        self.damping = as_damping(damping, hidden_size)
        self.field = RestState(hidden_size) if field is None else as_field(field)
        self.rho = rho
        self.integrator = integrator
        self.update = nn.GRUCell(input_size * (1 + masked), hidden_size) if update is None else update
        require_instance(self.update, nn.Module, "update")

    def forward(
        self,
        x: Tensor,
        h: Tensor | None = None,
        dt: float | Tensor = 0.0,
        mask: Tensor | None = None,
        last: Tensor | None = None,
    ) -> Tensor:
        """The state after an observation. Where a whole observation is missing, the state only decays.

        Args:
            x: values, (N, C). Values that the mask calls missing are ignored.
            h: the state after the last observation, (N, H); None is 0.
            dt: the time since then, a number or (N,), at least 0.
            mask: True or 1 where a value is observed, (N, C), or (N,) for whole observations; None if all are.
            last: the inputs u of the last observation, (N, F), for an `InputGated` damping; None is 0.

        Returns:
            The state, (N, H).

        Raises:
            ValueError, TypeError: a shape does not fit, dt is negative or not finite, or an observed value is NaN.
        """
        require_instance(x, Tensor, "x")
        steps = Steps.of(x[:, None], None, None if mask is None else mask[:, None], self.input_size, self.masked)
        u = steps.inputs[:, 0]
        h = u.new_zeros(len(x), self.hidden_size) if h is None else h
        if h.shape != (len(x), self.hidden_size):
            raise ValueError(f"h must be (N, H) = {(len(x), self.hidden_size)}, got shape {tuple(h.shape)}")
        before = self.decay(h, dt, last)
        return torch.where(steps.observed, self.update(u, before), before)

    def decay(self, h: Tensor, dt: float | Tensor, last: Tensor | None = None, t: float | Tensor = 0.0) -> Tensor:
        """The state a time dt after h, without an observation between.

        Args:
            h: (N, H).
            dt: a number or (N,), at least 0.
            last: the inputs u of the last observation, (N, F), for an `InputGated` damping; None is 0.
            t: the time of h, a number or (N,), for a field that depends on time.

        Returns:
            The state, (N, H).

        Raises:
            ValueError, TypeError: dt is negative, not finite or of the wrong shape.
        """
        _require_gap(dt, h)
        begin = torch.as_tensor(t, dtype=torch.float64, device=h.device).expand(len(h))
        gap = torch.as_tensor(dt, dtype=torch.float64, device=h.device).expand(len(h))
        times = torch.stack((begin, begin + gap), 1)
        func = DampedODEFunc(self.field, self._held(h, last), self.rho)
        return self.integrator.trajectory(func, h, times)[-1]

    def _held(self, h: Tensor, last: Tensor | None) -> Damping:
        """The damping over one gap."""
        if isinstance(self.damping, Damping):
            return self.damping
        u = h.new_zeros(len(h), self.damping.gate.in_features) if last is None else last
        return self.damping.held(u)


def _require_gap(dt: float | Tensor, h: Tensor) -> None:
    """Raise unless dt is a finite time of at least 0, for each sample or for all."""
    if not isinstance(dt, Tensor):
        require_nonnegative(dt, "dt")
        return
    if dt.shape not in ((), (len(h),)):
        raise ValueError(f"dt must be a number or (N,) = ({len(h)},), got shape {tuple(dt.shape)}")
    if torch.compiler.is_compiling():
        return
    wrong = ~(torch.isfinite(dt.detach()) & (dt.detach() >= 0))
    if bool(wrong.any()):
        raise ValueError(f"dt must be finite and at least 0, got {dt[wrong][0].item():g}; sort the times of a sample")
