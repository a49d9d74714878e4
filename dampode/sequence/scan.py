"""A recurrent layer that is linear in its state: all steps at once."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from dampode._checks import require_instance, require_positive_int
from dampode.damping import Damping
from dampode.sequence.forgetting import InputGated, TimeScales, as_damping, rates
from dampode.sequence.recurrence import damped_recurrence
from dampode.sequence.running import at_last
from dampode.sequence.steps import Steps, last_observed

__all__ = ["DampedScan", "ScanBlock"]

_PART = 1 << 17
"""Elements of the states that are computed at once on the CPU: memory that stays in the cache costs less."""


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
        h = self._first(steps, h0)
        gaps = steps.times.diff(dim=1, prepend=steps.times[:, :1])[:, :, None].to(h.real.dtype)
        gaps = gaps.clamp(max=torch.finfo(gaps.dtype).max)
        before = at_last(steps.inputs, last_observed(steps.observed))
        # without an observation all inputs are 0, and so is what they write
        inputs, outputs = before if self.held else steps.inputs, []
        for part in _parts(steps.inputs, self.hidden_size):
            written = self._written(inputs[:, part])
            rate = self._rates(before[:, part], h.real)
            states, h = damped_recurrence(rate, gaps[:, part], written, h, self.held)
            y = self.read(_as_real(states).to(self.read.weight.dtype))
            outputs.append(y.masked_fill_(steps.padding[:, part, None], 0.0))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), h

    def _written(self, inputs: Tensor) -> Tensor:
        """What inputs (N, T, F) write to the state: (N, T, H), complex if the state oscillates, at least float32."""
        written: Tensor = self.write(inputs.to(self.write.weight.dtype))
        written = written.to(torch.promote_types(written.dtype, torch.float32))
        return written if self.frequency is None else torch.view_as_complex(written.unflatten(-1, (-1, 2)))

    def _first(self, steps: Steps, h0: Tensor | None) -> Tensor:
        """The state at the first time, (N, H), checked."""
        written = self._written(steps.inputs[:, 0])
        if h0 is None:
            return torch.zeros_like(written)
        if h0.shape != written.shape or h0.is_complex() != written.is_complex():
            raise ValueError(
                f"h0 must be {tuple(written.shape)} of dtype {written.dtype}, got {tuple(h0.shape)} of {h0.dtype}"
            )
        return h0.to(written)

    def _rates(self, u: Tensor, h0: Tensor) -> Tensor:
        """λ, or λ + iω, over the gap after the inputs u (N, T, F): (1, 1, H) or (N, T, H), of h0's dtype."""
        lam = rates(self.damping, u.to(self.write.weight.dtype), h0).to(h0.dtype)
        lam = lam if lam.ndim == 3 else lam.expand(1, 1, self.hidden_size)
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


def _parts(inputs: Tensor, channels: int) -> list[slice]:
    """Parts of time to compute in turn. Their length is odd, so that the samples do not compete for the same cache."""
    steps = inputs.shape[1]
    size = steps if inputs.is_cuda else max(_PART // (len(inputs) * channels), 16) + 1
    size += 1 - size % 2
    return [slice(begin, begin + size) for begin in range(0, steps, size)]


def _as_real(h: Tensor) -> Tensor:
    """A complex state (N, T, H) as (N, T, 2H); a real one as it is."""
    return torch.view_as_real(h).flatten(-2) if h.is_complex() else h
