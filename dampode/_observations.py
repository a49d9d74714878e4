"""Observations at irregular times with missing values: checks, and which ones are next to each time."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_instance

__all__ = ["Observations", "require_observations"]


class Observations(NamedTuple):
    """Observations, and which ones of a channel are next to each time. Indices count times; −1 and T stand for none."""

    grid: Tensor
    """The times, (N, T); infinite at padding."""
    values: Tensor
    """(N, T, C); 0 where there is none."""
    before: Tensor
    """The channel's last observation, (N, T, C)."""
    after: Tensor
    """The channel's next observation, (N, T, C)."""
    first: Tensor
    """The channel's first observation, (N, C)."""
    last: Tensor
    """The channel's last observation of all, (N, C)."""

    @classmethod
    def of(cls, times: Tensor, values: Tensor) -> "Observations":
        """The observations, with a row of times and of values per sample."""
        rows = times if times.ndim == 2 else times[None]
        n, count = max(len(rows), len(values)), rows.shape[1]
        rows, values = rows.expand(n, -1), values.expand(n, -1, -1)
        observed = ~torch.isnan(values.detach()) & ~torch.isnan(rows.detach())[:, :, None]
        index = torch.arange(count, device=values.device)[:, None]
        before = torch.where(observed, index, -1).cummax(1).values
        onward = torch.where(observed, index, count).flip(1).cummin(1).values.flip(1)
        after = torch.cat((onward[:, 1:], torch.full_like(onward[:, :1], count)), 1)
        never = torch.nonzero(~observed.any(1))
        if len(never):
            sample, channel = never[0].tolist()
            raise ValueError(
                f"every channel needs an observation, got none of channel {channel} in sample {sample}; give it a "
                "value at the first time, or leave the channel out"
            )
        grid = torch.where(torch.isnan(rows), torch.inf, rows).contiguous()
        return cls(grid, torch.where(observed, values, 0.0), before, after, onward[:, 0], before[:, -1])

    def time(self, index: Tensor) -> Tensor:
        """The times of observations (N, ..., C), in their shape."""
        flat = self.grid.gather(1, index.reshape(len(index), -1))
        return flat.reshape(index.shape)

    def value(self, index: Tensor) -> Tensor:
        """The values of observations (N, T, C); some value where the index stands for none."""
        return self.values.gather(1, index.clamp(0, self.values.shape[1] - 1))

    def length(self, begin: Tensor, end: Tensor) -> Tensor:
        """The time from one observation to another, (N, T, C); 1 where there is none."""
        exists = (begin >= 0) & (end < self.values.shape[1])
        begin, end = (index.clamp(0, self.values.shape[1] - 1) for index in (begin, end))
        return torch.where(exists, self.time(end) - self.time(begin), 1.0).to(self.values.dtype)

    def slope(self, begin: Tensor, end: Tensor) -> Tensor:
        """The slope from one observation to another, (N, T, C)."""
        return (self.value(end) - self.value(begin)) / self.length(begin, end)

    def earlier(self) -> Tensor:
        """The channel's last observation but one, (N, T, C)."""
        shifted = torch.cat((torch.full_like(self.before[:, :1], -1), self.before[:, :-1]), 1)
        return torch.where(self.before < 0, -1, shifted.gather(1, self.before.clamp(min=0)))


def require_observations(times: Tensor, values: Tensor) -> None:
    """Raise unless times and values have the shapes, types and order that a path needs."""
    for name, value in (("times", times), ("values", values)):
        require_instance(value, Tensor, name)
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating, got dtype {value.dtype}; convert it with .float()")
    fits = times.ndim in (1, 2) and values.ndim == 3 and times.shape[-1] == values.shape[1] and values.numel()
    if not fits or (times.ndim == 2 and 1 != len(times) != len(values) != 1):
        raise ValueError(
            "a path needs times (T,) or (N, T) and values (N, T, C), got times "
            f"{tuple(times.shape)} and values {tuple(values.shape)}; a single channel is values[..., None]"
        )
    if bool(torch.isinf(values).any()):
        raise ValueError("the values of a path must be finite, or NaN where they are missing, got an infinite value")
    rows = times.detach() if times.ndim == 2 else times.detach()[None]
    given = ~torch.isnan(rows)
    resumed = torch.nonzero(~given[:, 0] | (given[:, 1:] & ~given[:, :-1]).any(1) | torch.isinf(rows).any(1)).flatten()
    if len(resumed):
        raise ValueError(
            "the times of a path must be finite, and NaN may only pad the end of a row, got row "
            f"{int(resumed[0])}: {rows[int(resumed[0])].tolist()}; move its times to the front"
        )
    wrong = torch.nonzero(given[:, 1:] & ~(rows.diff(dim=1) > 0))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(
            f"the times of a path must increase strictly, got {rows[row, column].item():g} and then "
            f"{rows[row, column + 1].item():g} in row {row}; sort them and drop repeated times"
        )
