"""A recurrent layer that is linear in its state: all steps at once."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from dampode._checks import require_instance, require_positive_int
from dampode.damping import Damping
from dampode.sequence.forgetting import InputGated, TimeScales, as_damping, rates
from dampode.sequence.recurrence import linear_recurrence
from dampode.sequence.running import at_last
from dampode.sequence.steps import Steps, last_observed

__all__ = ["DampedScan", "ScanBlock"]


class DampedScan(nn.Module):
    """A damped ODE that is linear in its state h, so that Eq. 8 is exact and all T steps are computed at once.

    By default h decays between observations, h' = −λh, and jumps at an observation, h ← h + B u:
    h_k = e^{−λΔt} h_{k−1} + B u_k, a sum over observations. With ``held`` the last observation drives h until the next
    one, h' = λ (B u − h): h_k = e^{−λΔt} h_{k−1} + (1 − e^{−λΔt}) B u_{k−1}, a mean over time.

    The output is C h + c. The scan is stable for every Δt, because |e^{−λΔt}| <= 1. The state is at least float32;
    outputs have the dtype of the weights.

    Args:
        input_size: number of values per observation.
        hidden_size: number of channels H of the state and of the output.
        damping: (shortest, longest) time 1/λ at the start, in the unit of the data's times, which makes
            `learned_time_scales`; or a `Damping` that does not depend on the state; or an `InputGated`.
        masked: whether u includes the mask of each value. A mask (N, T, C) needs this.
        held: whether u drives the state over the gap after it, instead of a jump.
        oscillating: whether the state is complex, with λ + iω in the place of λ. ω is learned per channel; at the start
            it makes one turn in the time 1/λ.

    Raises:
        ValueError, TypeError: a size or a time scale is invalid.

    Source: Yang et al. 2020, Eq. 8; Smith et al. 2023, Simplified state space layers for sequence modeling.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        damping: TimeScales | Damping | InputGated,
        *,
        masked: bool = False,
        held: bool = False,
        oscillating: bool = False,
    ) -> None:
        super().__init__()
        require_positive_int(input_size, "input_size")
        require_positive_int(hidden_size, "hidden_size")
        for name, value in (("masked", masked), ("held", held), ("oscillating", oscillating)):
            require_instance(value, bool, name)
        self.input_size, self.hidden_size, self.masked = input_size, hidden_size, masked
        self.held = held
        inputs, parts = input_size * (1 + masked), 1 + oscillating
        self.damping = as_damping(damping, hidden_size)
        if isinstance(self.damping, Damping) and self.damping.varies:
            raise ValueError(
                "DampedScan needs a λ that does not depend on the state, so that all steps can be computed at once, "
                f"got {type(self.damping).__name__}; take InputGated or DampedRNN"
            )
        self.write = nn.Linear(inputs, hidden_size * parts, bias=False)
        self.read = nn.Linear(hidden_size * parts, hidden_size)
        self.frequency: nn.Parameter | None = None
        if oscillating:
            like = next(self.damping.parameters(), self.write.weight)
            lam = rates(self.damping, like.new_zeros(1, inputs), like.new_zeros(1, hidden_size)).detach()
            self.frequency = nn.Parameter(2 * torch.pi * lam.expand(1, hidden_size)[0].clone())

    def forward(
        self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None, h0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs and the last state.

        Args:
            x: values, (N, T, C). Values that the mask calls missing, or at padding, are ignored.
            times: (N, T) or (T,), nondecreasing; NaN at the end of a row pads it. None counts steps: 0, 1, 2, ...
            mask: True or 1 where a value is observed, (N, T, C), or (N, T) for whole observations; None if all are.
            h0: the state at the first time, (N, H), complex if the state oscillates; None is 0.

        Returns:
            Outputs (N, T, H), 0 at padding, and the state at each sample's last time, (N, H).

        Raises:
            ValueError, TypeError: as `Steps.of`; λ is 0, infinite or NaN; or h0 does not fit.
        """
        steps = Steps.of(x, times, mask, self.input_size, self.masked)
        h = self.states(steps, h0)
        y = self.read(_as_real(h).to(self.read.weight.dtype))
        return torch.where(steps.padding[:, :, None], 0.0, y), h[:, -1]

    def states(self, steps: Steps, h0: Tensor | None = None) -> Tensor:
        """The states after all steps, (N, T, H); at padding, the state at the last time."""
        written = self.write(steps.inputs.to(self.write.weight.dtype))
        written = written.to(torch.promote_types(written.dtype, torch.float32))
        if self.frequency is not None:
            written = torch.view_as_complex(written.unflatten(-1, (-1, 2)))
        if h0 is None:
            h0 = torch.zeros_like(written[:, 0])
        elif h0.shape != written[:, 0].shape or h0.is_complex() != written.is_complex():
            raise ValueError(
                f"h0 must be {tuple(written[:, 0].shape)} of dtype {written.dtype}, got {tuple(h0.shape)} of {h0.dtype}"
            )
        gaps = steps.times.diff(dim=1, prepend=steps.times[:, :1])[:, :, None].to(h0.real.dtype)
        last = last_observed(steps.observed)
        rate = self._rates(at_last(steps.inputs, last), h0.real)
        a = torch.exp(-gaps.clamp(max=torch.finfo(gaps.dtype).max) * rate).expand_as(written)
        seen = steps.observed[:, :, None]
        b = (1 - a) * at_last(written, last) if self.held else torch.where(seen, written, 0.0)
        return linear_recurrence(a, b, h0.to(b))

    def _rates(self, u: Tensor, h0: Tensor) -> Tensor:
        """λ, or λ + iω, over the gap after the inputs u (N, T, F): (H,) or (N, T, H), of h0's dtype."""
        lam = rates(self.damping, u.to(self.write.weight.dtype), h0).to(h0.dtype)
        return lam if self.frequency is None else torch.complex(*torch.broadcast_tensors(lam, self.frequency.to(lam)))


class ScanBlock(nn.Module):
    """x + dropout(GLU(W gelu(scan(norm(x))))): a `DampedScan` with a pointwise nonlinearity, to be stacked.

    Args:
        size: number of channels of x.
        damping: as `DampedScan` takes it.
        dropout: probability in [0, 1).
        held, oscillating: as `DampedScan` takes them.

    Raises:
        ValueError, TypeError: as `DampedScan` and `torch.nn.Dropout` raise them.

    Source: Smith et al. 2023, Simplified state space layers for sequence modeling.
    """

    def __init__(
        self,
        size: int,
        damping: TimeScales | Damping | InputGated,
        *,
        dropout: float = 0.0,
        held: bool = False,
        oscillating: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.scan = DampedScan(size, size, damping, held=held, oscillating=oscillating)
        self.mix = nn.Linear(size, 2 * size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The output, (N, T, size); arguments as `DampedScan` takes them, with a mask (N, T)."""
        y, _ = self.scan(self.norm(x), times, mask)
        out: Tensor = x + self.dropout(glu(self.mix(gelu(y)), -1))
        return out


def _as_real(h: Tensor) -> Tensor:
    """A complex state (N, T, H) as (N, T, 2H); a real one as it is."""
    return torch.view_as_real(h).flatten(-2) if h.is_complex() else h
