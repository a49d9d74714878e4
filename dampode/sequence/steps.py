"""The steps of a sequence of observations: values, masks and times, checked and laid out for a layer."""

from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_instance
from dampode.integrators.sample_times import require_rows, without_padding

__all__ = ["Steps", "features", "last_observed"]


class Steps(NamedTuple):
    """A batch of sequences of T steps. A step without an observation changes no state."""

    inputs: Tensor
    """What an update reads, (N, T, F): the values, 0 where they are missing, and the mask if the layer reads it."""
    times: Tensor
    """float64, (N, T). The last time of a row stands at its padding."""
    observed: Tensor
    """Whether anything is observed at a step, (N, T). False at padding."""
    padding: Tensor
    """(N, T)."""

    @classmethod
    def of(cls, x: Tensor, times: Tensor | None, mask: Tensor | None, size: int, masked: bool) -> "Steps":
        """The steps of checked arguments.

        Args:
            x: values, (N, T, C). A value that the mask calls missing, or at padding, is ignored.
            times: (N, T) or (T,), nondecreasing; NaN at the end of a row pads it. None counts steps: 0, 1, 2, ...
            mask: True or 1 where a value is observed, (N, T, C), or (N, T) for whole observations; None if all are.
            size: C.
            masked: whether the layer reads a mask per value.

        Raises:
            ValueError: a shape does not fit, times decrease, or an observed value is NaN or infinite.
            TypeError: an argument is of the wrong type.
        """
        _require_values(x, size)
        times = torch.arange(x.shape[1], dtype=torch.float64, device=x.device) if times is None else times
        rows = _rows(times, x)
        padding = torch.isnan(rows)
        seen = ~padding[:, :, None] & _mask(mask, x, masked)
        _require_observed(x, seen)
        inputs = features(x, seen, masked)
        return cls(inputs, without_padding(rows), seen.any(2), padding)


def features(x: Tensor, seen: Tensor, masked: bool) -> Tensor:
    """What an update reads: the values, 0 where they are missing; and the mask if the layer reads it.

    Args:
        x: (..., C).
        seen: bool, broadcasts to x.
        masked: whether the mask is appended.
    """
    values = torch.where(seen, x, 0.0)
    return torch.cat((values, seen.expand_as(x).to(x.dtype)), -1) if masked else values


def last_observed(observed: Tensor) -> Tensor:
    """The number of the last observed step before each step, (N, T) int64; −1 where there is none."""
    numbers = torch.where(observed, torch.arange(observed.shape[1], device=observed.device), -1)
    return torch.cat((torch.full_like(numbers[:, :1], -1), numbers.cummax(1).values[:, :-1]), 1)


def _require_values(x: Tensor, size: int) -> None:
    """Raise unless x holds sequences of ``size`` channels. Reads no values."""
    require_instance(x, Tensor, "x")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating, got dtype {x.dtype}; convert it with x.float()")
    if x.ndim != 3 or x.shape[2] != size or x.numel() == 0:
        raise ValueError(
            f"x must be (N, T, {size}), with at least one step, got shape {tuple(x.shape)}; input_size is {size}, and "
            "a single sequence is x[None]"
        )


def _rows(times: Tensor, x: Tensor) -> Tensor:
    """The times as float64 rows (N, T), checked."""
    require_instance(times, Tensor, "times", "use torch.tensor")
    if times.is_complex() or times.dtype == torch.bool:
        raise TypeError(f"times must be real numbers, got dtype {times.dtype}")
    if times.shape not in (x.shape[:2], x.shape[1:2]):
        raise ValueError(
            f"times must be (N, T) or (T,), one time per step of x {tuple(x.shape)}, got shape {tuple(times.shape)}"
        )
    rows = times.to(x.device, torch.float64).expand(x.shape[:2])
    if not torch.compiler.is_compiling():
        require_rows(rows.detach(), "times")
        falls = torch.nonzero(rows.detach().diff(dim=1) < 0)
        if len(falls):
            n, k = falls[0].tolist()
            raise ValueError(
                f"times must not decrease, got {rows[n, k].item():g} and then {rows[n, k + 1].item():g} in row {n}, "
                f"steps {k} and {k + 1}; sort each row by time"
            )
    return rows


def _mask(mask: Tensor | None, x: Tensor, masked: bool) -> Tensor:
    """The mask as bool, (N, T, C) or (N, T, 1), checked."""
    if mask is None:
        return torch.ones(1, 1, 1, dtype=torch.bool, device=x.device)
    require_instance(mask, Tensor, "mask")
    if mask.shape not in (x.shape, x.shape[:2]):
        raise ValueError(
            f"mask must be (N, T, C) like x, or (N, T) for whole observations: x is {tuple(x.shape)}, mask is "
            f"{tuple(mask.shape)}"
        )
    if mask.ndim == 3 and not masked:
        raise ValueError(
            "a mask per value, (N, T, C), needs a layer that reads it, got masked=False; make the layer with "
            "masked=True, or give a mask (N, T) of whole observations"
        )
    seen = mask.to(x.device, torch.bool)
    if mask.dtype != torch.bool and not torch.compiler.is_compiling() and bool((seen.to(mask) != mask).any()):
        wrong = mask[seen.to(mask) != mask][0].item()
        raise ValueError(f"mask must be True or 1 where a value is observed, else False or 0, got {wrong}")
    return seen if mask.ndim == 3 else seen[:, :, None]


def _require_observed(x: Tensor, seen: Tensor) -> None:
    """Raise if an observed value is NaN or infinite."""
    if torch.compiler.is_compiling():
        return
    wrong = torch.nonzero(~torch.isfinite(x.detach()) & seen)
    if len(wrong):
        n, k, c = wrong[0].tolist()
        raise ValueError(
            f"an observed value must be finite, got {x[n, k, c].item()} in sample {n}, step {k}, channel {c}; set the "
            "mask to False where a value is missing, or pad a row's times with NaN"
        )
