"""Jumps: times at which a solve stops exactly, changes the state, and starts anew."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.integrators.sample_times import require_rows

__all__ = [
    "JumpMap",
    "Jumps",
    "jumped",
    "require_jumps",
    "require_no_jumps",
]

JumpMap = Callable[[Tensor, Tensor], Tensor]
"""(j, x) -> x after the jump, (N, *S): j (N,) int64 holds the number of each sample's jump."""


@dataclass(frozen=True)
class Jumps:
    """Times at which the state jumps, x ← map(j, x), or at which only the vector field is discontinuous.

    A solve to a tolerance or with fixed steps ends a step exactly at each of these times, and starts anew after it
    without the history of before. The state at a jump time is the state after the jump, also at the first and the last
    time of a solve.

    Args:
        times: (J,) for all samples or (N, J) for each sample, strictly monotonic in the direction of the solve. NaN at
            a row's end pads it. Gradients reach them.
        map: called as map(j, x) with the numbers j (N,) int64 of the samples' jumps and the states x (N, *S); returns
            the states after the jump. It sees the whole batch. Its values count only for the samples that jump; the
            other samples have j = 0. None changes no state: it is for a field that is discontinuous at these times.

    Raises:
        TypeError: times is not a floating tensor, or map is not callable.
        ValueError: times is neither (J,) nor (N, J).
    """

    times: Tensor
    map: JumpMap | None = None

    def __post_init__(self) -> None:
        """Check what needs no solve."""
        require_instance(self.times, Tensor, "the times of jumps", "use torch.tensor")
        if not self.times.is_floating_point():
            raise TypeError(f"the times of jumps must be floating, got dtype {self.times.dtype}; use .double()")
        if self.times.ndim not in (1, 2):
            raise ValueError(f"the times of jumps must be (J,) or (N, J), got shape {tuple(self.times.shape)}")
        if self.map is not None and not callable(self.map):
            raise TypeError(f"map must be callable as map(j, x), got {type(self.map).__name__}")


def jumped(jumps: Jumps, j: Tensor, samples: Tensor, x: Tensor) -> Tensor:
    """The states after the jumps with the numbers j (N,), for the ``samples``, a mask of N values."""
    if jumps.map is None:
        return x
    after = jumps.map(j, x)
    require_instance(after, Tensor, "the state after a jump", "map(j, x) must return it")
    if after.shape != x.shape or after.dtype != x.dtype:
        raise ValueError(
            f"map(j, x) of Jumps must keep the state's shape and dtype: x is {tuple(x.shape)} {x.dtype}, got "
            f"{tuple(after.shape)} {after.dtype}"
        )
    return torch.where(samples.reshape(-1, *[1] * (x.ndim - 1)), after, x)


def require_no_jumps(jumps: Jumps | None, name: str) -> None:
    """Raise if there are jumps."""
    if jumps is not None:
        raise ValueError(
            f"{name} cannot stop at jumps; take ExponentialAdams, KenCarp4 or a fixed step, or solve from one jump "
            "to the next"
        )


def require_jumps(jumps: Jumps | None, t: Tensor, x: Tensor) -> None:
    """Raise unless the jumps fit to the times of a solve, (T,) or (N, T) without padding.

    Under torch.compile their values are not read.
    """
    if jumps is None:
        return
    require_instance(jumps, Jumps, "jumps", "write Jumps(times, map)")
    times = jumps.times.detach()
    if times.ndim == 2 and len(times) != len(x):
        raise ValueError(
            f"the times of jumps must have a row per sample, got {len(times)} rows for {len(x)} samples; times of all "
            "samples are (J,)"
        )
    if torch.compiler.is_compiling() or times.shape[-1] == 0:
        return
    require_rows(times, "the times of jumps", may_be_empty=True)
    first, last = (t.detach().select(-1, k).reshape(-1, 1).to(times.device) for k in (0, -1))
    rows = times.reshape(-1, times.shape[-1])
    low, high = torch.minimum(first, last), torch.maximum(first, last)
    outside = (rows < low) | (rows > high)
    if bool(outside.any()):
        n, j = torch.nonzero(outside)[0].tolist()
        row, span = min(n, len(rows) - 1), min(n, len(low) - 1)
        raise ValueError(
            f"the times of jumps must lie inside the solve, got {rows[row, j].item():g} for jump {j} of sample {n}, "
            f"which is solved from {first[span].item():g} to {last[span].item():g}; leave it out, or pad with NaN"
        )
    against = (rows.diff(dim=1) * (last - first).sum().sign().to(rows)) <= 0
    if bool(against.any()):
        n, j = torch.nonzero(against)[0].tolist()
        raise ValueError(
            f"the times of jumps must run strictly in the direction of the solve, got {rows[n, j].item():g} before "
            f"{rows[n, j + 1].item():g}; sort them, and make jumps at one time a single jump"
        )
