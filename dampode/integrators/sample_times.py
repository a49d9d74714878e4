"""The times of a solve: the same for all samples, (T,), or each sample's own, (N, T)."""

import torch
from torch import Tensor

from dampode._checks import require_instance

__all__ = ["columns", "first_times", "require_rows", "require_shared", "require_times", "without_padding"]


def columns(times: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The times one after the other, in x's real dtype, as f gets them.

    Args:
        times: (T,) or (N, T).
        x: a state, (N, *S).

    Returns:
        T tensors: 0-dim if the samples share their times, else (N, 1, ..., 1).
    """
    shape = (len(x), *[1] * (x.ndim - 1)) if times.ndim == 2 else ()
    return times.to(x.real).movedim(-1, 0).reshape(-1, *shape).unbind()


def first_times(times: Tensor) -> Tensor:
    """Each sample's first time, (N,), or the first time of all samples, ()."""
    return times.select(-1, 0)


def without_padding(t: Tensor) -> Tensor:
    """The times, with the last time of a row in the place of the NaN at its end. Reads no values.

    A row then ends with intervals of length 0, over which the state does not change. Gradients with respect to the
    padding reach the last time.

    Args:
        t: (T,) without NaN, or (N, T).
    """
    if t.ndim == 1:
        return t
    padding = torch.isnan(t)
    last = t.gather(1, (~padding).sum(1, keepdim=True).sub(1).clamp(min=0))
    return torch.where(padding, last, t)


def require_shared(times: Tensor, name: str) -> None:
    """Raise if the times are each sample's own, (N, T)."""
    if times.ndim != 1:
        raise ValueError(
            f"{name} takes one step for the whole batch, so t must be (T,), got shape {tuple(times.shape)}; for times "
            "of each sample take ExponentialAdams, KenCarp4 or a fixed step"
        )


def require_times(t: Tensor, x: Tensor) -> None:
    """Raise unless the times of a solve are valid. Under torch.compile their values are not read.

    Args:
        t: what should be (T,) or (N, T).
        x: initial state, (N, *S).
    """
    require_instance(t, Tensor, "t", "use torch.tensor or torch.linspace")
    if not t.is_floating_point():
        raise TypeError(f"t must be floating, got dtype {t.dtype}; convert it with t.double()")
    if t.ndim not in (1, 2) or t.shape[-1] < 2:
        raise ValueError(
            f"t must be (T,), or (N, T) for times of each sample, with at least two times, got shape {tuple(t.shape)}"
        )
    if t.ndim == 2 and len(t) != len(x):
        raise ValueError(
            f"t of shape (N, T) must have a row per sample, got {len(t)} rows for {len(x)} samples; times of all "
            "samples are (T,)"
        )
    if x.is_meta or t.is_meta:
        raise ValueError(
            "a solve reads values, got a tensor on the meta device, which has none; move x0 and t to a device, or call "
            "a DampedBlock with a fixed step, which reads none"
        )
    if not torch.compiler.is_compiling():
        _require_values(t)


def _require_values(t: Tensor) -> None:
    """Raise unless the values of the times are valid."""
    if t.ndim == 2:
        require_rows(t.detach(), "t")
    elif not bool(torch.isfinite(t).all()):
        raise ValueError(f"t must be finite, got {t.tolist()}")
    _require_monotonic(t, t.detach().reshape(-1, t.shape[-1]))


def require_rows(t: Tensor, name: str, may_be_empty: bool = False) -> None:
    """Raise unless each row of the times (T,) or (N, T) is finite, with NaN at its end alone.

    Args:
        t: the times.
        name: what they are, for the error.
        may_be_empty: whether a row may be NaN alone.
    """
    rows = t.reshape(-1, t.shape[-1])
    given = ~torch.isnan(rows)
    if bool(torch.isinf(rows).any()):
        row, column = torch.nonzero(torch.isinf(rows))[0].tolist()
        raise ValueError(
            f"{name} must be finite, got {rows[row, column].item():g} in row {row}, column {column}; pad with NaN"
        )
    resumed = given[:, 1:] & ~given[:, :-1]
    if bool(resumed.any()):
        row, column = torch.nonzero(resumed)[0].tolist()
        raise ValueError(
            f"{name} may have NaN only at the end of a row, as padding, got NaN in row {row}, column {column} before "
            f"{rows[row, column + 1].item():g}; move the times of the row to its front"
        )
    if not may_be_empty and not bool(given[:, 0].all()):
        row = int(torch.nonzero(~given[:, 0])[0])
        raise ValueError(
            f"{name} must give every sample its first time, got NaN alone in row {row}; leave the sample out"
        )


def _require_monotonic(t: Tensor, rows: Tensor) -> None:
    """Raise unless every row is strictly monotonic and all rows have one direction."""
    step = rows.diff(dim=1)  # NaN at padding
    forward = torch.nan_to_num(step).sum(1) >= 0
    wrong = torch.where(forward[:, None], step <= 0, step >= 0)
    if bool(wrong.any()):
        row, column = torch.nonzero(wrong)[0].tolist()
        place = "" if t.ndim == 1 else f"{row}, "
        raise ValueError(
            f"t must increase strictly or decrease strictly, got t[{place}{column}] = {rows[row, column].item():g} and "
            f"t[{place}{column + 1}] = {rows[row, column + 1].item():g}; sort it and drop repeated times"
        )
    if t.ndim == 1:
        return
    moving = ~torch.isnan(step[:, 0])
    if bool((forward & moving).any()) and bool((~forward).any()):
        up, down = (int(torch.nonzero(samples)[0]) for samples in (forward & moving, ~forward))
        raise ValueError(
            f"the times of all samples must run in one direction, got times that increase in row {up} and decrease in "
            f"row {down}; solve the two groups one after the other"
        )
