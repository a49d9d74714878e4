"""How a state forgets between observations: time scales per channel, and λ that the last observation gates."""

import math

import torch
from torch import Tensor, nn

from dampode._checks import require_instance, require_positive, require_positive_int
from dampode.damping import Constant, Damping, Gated, Learned

__all__ = [
    "InputGated",
    "TimeScales",
    "as_damping",
    "learned_time_scales",
    "rates",
    "state_gated_time_scales",
]

TimeScales = tuple[float, float]
"""(shortest, longest): the times 1/λ of the channels at the start, in the unit of the data's times."""


def learned_time_scales(time_scales: TimeScales, channels: int) -> Learned:
    """λ of each channel, λ = e^r with r trained; at the start the times 1/λ are log-spaced.

    Weight decay pulls the times 1/λ to the geometric mean of the two ends.

    Args:
        time_scales: (shortest, longest) time 1/λ, in the unit of the data's times.
        channels: number of channels.

    Returns:
        The damping, λ (channels,), from fast to slow.

    Raises:
        ValueError, TypeError: a time is not positive, the two are not in order, or float32 cannot hold 1/time; or
            channels is no positive int.
    """
    slow, fast = _log_rates(time_scales)
    require_positive_int(channels, "channels")
    damping = Learned(slow, fast, act=torch.exp, anchor=(slow + fast) / 2, shape=(channels,))
    with torch.no_grad():
        damping.raw.copy_(torch.linspace(fast, slow, channels) - damping.anchor)
    return damping


def state_gated_time_scales(time_scales: TimeScales, channels: int) -> Gated:
    """λ(h) = exp(W h + b), for states (N, channels); at the start W is 0 and the times 1/λ are log-spaced.

    Args, Returns, Raises: see `learned_time_scales`.
    """
    slow, fast = _log_rates(time_scales)
    damping = Gated(channels, act=torch.exp, start=(slow, fast), dim=-1)
    with torch.no_grad():
        damping.gate.bias.copy_(torch.linspace(fast, slow, channels))
    return damping


class _Held(Damping):
    """λ with a given value over a gap."""

    depends_on_state: bool = False
    depends_on_time: bool = False

    def __init__(self, lam: Tensor) -> None:
        super().__init__()
        self.lam = lam

    def forward(self, t: float | Tensor, x: Tensor) -> Tensor:
        """The value, in x's dtype."""
        return self.lam.to(x)


class InputGated(nn.Module):
    """λ(u) = exp(W u + b) with the inputs u of the last observation; it holds until the next observation.

    At the start W is 0 and the times 1/λ are log-spaced.

    Args:
        inputs: number of inputs u, the mask included.
        channels: number of channels of the state.
        time_scales: (shortest, longest) time 1/λ at the start, in the unit of the data's times.

    Raises:
        ValueError, TypeError: see `learned_time_scales`.
    """

    def __init__(self, inputs: int, channels: int, time_scales: TimeScales) -> None:
        super().__init__()
        slow, fast = _log_rates(time_scales)
        require_positive_int(inputs, "inputs")
        require_positive_int(channels, "channels")
        self.gate = nn.Linear(inputs, channels)
        with torch.no_grad():
            self.gate.weight.zero_()
            self.gate.bias.copy_(torch.linspace(fast, slow, channels))

    def forward(self, u: Tensor) -> Tensor:
        """λ, (..., channels), for inputs u (..., inputs)."""
        return torch.exp(self.gate(u))

    def held(self, u: Tensor) -> Damping:
        """The damping over one gap, after the inputs u (N, inputs)."""
        return _Held(self(u))


def as_damping(damping: TimeScales | Damping | InputGated, channels: int) -> Damping | InputGated:
    """The damping itself, or the `learned_time_scales` of (shortest, longest)."""
    if isinstance(damping, tuple):
        return learned_time_scales(damping, channels)
    require_instance(damping, (Damping, InputGated), "damping", "give (shortest, longest), or a Damping")
    return damping


def rates(damping: Damping | InputGated, u: Tensor, x: Tensor) -> Tensor:
    """λ over gaps at whose begin u was observed, for a damping that does not depend on the state.

    Args:
        damping: the damping.
        u: inputs of the last observation before each gap, (..., F).
        x: any state, (N, H).

    Returns:
        λ, which broadcasts to (..., H).

    Raises:
        ValueError: training or the unit of time has made a λ 0, infinite or NaN. Not under torch.compile.
    """
    lam: Tensor = damping(0.0, x) if isinstance(damping, Damping) else damping(u)
    if torch.compiler.is_compiling() or isinstance(damping, Constant):
        return lam
    wrong = lam.detach()[~(torch.isfinite(lam.detach()) & (lam.detach() > 0))]
    if len(wrong):
        raise ValueError(
            f"λ must be above 0 and finite in {lam.dtype}, got {wrong[0].item()}; give times in a unit in which the "
            "time scales are near 1, such as hours instead of seconds, or train with a smaller step"
        )
    return lam


def _log_rates(time_scales: TimeScales) -> tuple[float, float]:
    """Log λ of the slowest and of the fastest channel.

    Raises:
        ValueError: a time is not positive, the two are not in order, or float32 cannot hold λ in this unit.
        TypeError: not two numbers.
    """
    require_instance(time_scales, tuple, "time_scales", "give (shortest, longest)")
    if len(time_scales) != 2:
        raise ValueError(f"time_scales must be (shortest, longest), got {len(time_scales)} numbers")
    shortest, longest = time_scales
    for time in time_scales:
        require_positive(time, "a time of time_scales")
        if not torch.finfo(torch.float32).tiny < 1 / time < torch.finfo(torch.float32).max:
            raise ValueError(
                f"λ = 1/time must be above 0 and finite in float32, got the time scale {time:g}; give times and "
                "time_scales in a unit in which they are near 1, such as hours instead of nanoseconds"
            )
    if shortest > longest:
        raise ValueError(f"time_scales must be (shortest, longest), got ({shortest}, {longest})")
    return -math.log(longest), -math.log(shortest)
