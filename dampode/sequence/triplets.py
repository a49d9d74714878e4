"""A loader for triplet data: rows (record, time, variable, value) become padded sequences with masks."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dampode._checks import require_instance, require_positive_int

__all__ = ["Scaling", "Sequences", "Triplets", "time_since_observed"]


class Triplets(NamedTuple):
    """Observations in any order, one per row. A missing value is a row that is not there."""

    record: Tensor
    """The number of the record, integer, (M,)."""
    time: Tensor
    """The time of the observation, (M,)."""
    variable: Tensor
    """The number of the variable, integer from 0, (M,)."""
    value: Tensor
    """The value, (M,)."""

    def of_records(self, records: Tensor) -> "Triplets":
        """The rows of the given records, for a training or a test part."""
        rows = torch.isin(self.record, records)
        return Triplets(*(column[rows] for column in self))


@dataclass(frozen=True)
class Scaling:
    """Scales of values and times. Fit it on the training part alone, and apply it to every part."""

    mean: Tensor
    """Of each variable, (C,)."""
    deviation: Tensor
    """Standard deviation of each variable, (C,); 1 where it has no two different values."""
    time_unit: float
    """Times are divided by it: the median gap between two times of a record."""

    @classmethod
    def fit(cls, triplets: Triplets, variables: int) -> "Scaling":
        """The scales of the training part. A variable that it never shows keeps its values.

        Args:
            triplets: the training part.
            variables: number of variables C.

        Raises:
            ValueError, TypeError: the triplets are invalid, or no record has two different times.
        """
        _require_triplets(triplets, variables)
        count, total = (
            torch.zeros(variables, dtype=torch.float64).index_add_(0, triplets.variable.long(), add.double())
            for add in (torch.ones_like(triplets.value), triplets.value)
        )
        mean = total / count.clamp(min=1)
        square = (triplets.value.double() - mean[triplets.variable.long()]) ** 2
        variance = torch.zeros_like(mean).index_add_(0, triplets.variable.long(), square) / count.clamp(min=1)
        deviation = torch.where(variance > 0, variance.sqrt(), 1.0)
        gaps = Sequences.of(triplets, variables).times.diff(dim=1)
        if not bool((gaps > 0).any()):
            raise ValueError("a unit of time needs a record with two different times, got none; leave scaling out")
        return cls(mean, deviation, float(gaps[gaps > 0].median()))


class Sequences(NamedTuple):
    """Padded sequences of N records with T steps at most, as the layers of `dampode.sequence` take them."""

    records: Tensor
    """The numbers of the records in the order of the rows, increasing, (N,)."""
    times: Tensor
    """float64, (N, T), increasing; NaN at padding."""
    values: Tensor
    """float32, (N, T, C); 0 where nothing is observed."""
    mask: Tensor
    """Whether a value is observed, bool, (N, T, C)."""

    @classmethod
    def of(cls, triplets: Triplets, variables: int, scaling: Scaling | None = None) -> "Sequences":
        """The sequences of triplets. A row per record, and a step per distinct time of a record.

        Several values of one variable at one time of a record are averaged.

        Args:
            triplets: the observations, in any order.
            variables: number of variables C.
            scaling: scales from the training part; None changes neither values nor times.

        Raises:
            ValueError: columns differ in length or are empty, a time or value is NaN or infinite, a variable is not in
                [0, C), or the scaling has another number of variables.
            TypeError: a column is of the wrong type.
        """
        _require_triplets(triplets, variables)
        if scaling is not None and len(scaling.mean) != variables:
            raise ValueError(f"scaling must have {variables} variables, got {len(scaling.mean)}; fit it again")
        order = torch.argsort(triplets.time, stable=True)
        order = order[torch.argsort(triplets.record[order], stable=True)]
        record, time, variable, value = (column[order] for column in triplets)
        records, row = torch.unique_consecutive(record, return_inverse=True)
        starts = torch.ones_like(row, dtype=torch.bool)
        starts[1:] = (row.diff() != 0) | (time.diff() != 0)
        number = starts.cumsum(0) - 1
        first = torch.zeros_like(records, dtype=torch.int64)
        first[row.flip(0)] = number.flip(0)
        step = number - first[row]
        shape = (len(records), int(step.max()) + 1, variables)
        times = torch.full(shape[:2], torch.nan, dtype=torch.float64)
        times[row, step] = time.double()
        place = (row * shape[1] + step) * variables + variable.long()
        total = torch.zeros(shape, dtype=torch.float64)
        count = torch.zeros(shape, dtype=torch.float32)
        count.view(-1).index_add_(0, place, torch.ones_like(place, dtype=torch.float32))
        value = value.double()
        if scaling is not None:
            value = (value - scaling.mean[variable.long()]) / scaling.deviation[variable.long()]
            times = times / scaling.time_unit
        total.view(-1).index_add_(0, place, value)
        return cls(records, times, (total / count.clamp(min=1)).float(), count > 0)

    @property
    def time_scales(self) -> tuple[float, float]:
        """A range of time scales for the layers: the median gap between two times and the longest record."""
        gaps = self.times.diff(dim=1)
        first = self.times[:, :1]
        longest = float((self.times - first).nan_to_num(0.0).max())
        if longest <= 0:
            raise ValueError("time scales need a record with two different times, got none; choose them by hand")
        return float(gaps[gaps > 0].median()), longest

    def rows(self, index: Tensor) -> "Sequences":
        """The sequences of some rows, without the steps that are padding in all of them.

        Args:
            index: numbers of rows, (n,), or a bool per row, (N,).
        """
        times = self.times[index]
        steps = int((~torch.isnan(times)).sum(1).max())
        return Sequences(
            self.records[index], times[:, :steps], self.values[index][:, :steps], self.mask[index][:, :steps]
        )


def time_since_observed(times: Tensor, mask: Tensor) -> Tensor:
    """The time since each variable was last observed before a step; since the first time if it never was.

    A model that reads it knows the age of every value, as GRU-D does.

    Args:
        times: (N, T), NaN at padding.
        mask: bool, (N, T, C).

    Returns:
        (N, T, C) in times' dtype, 0 at the first step and at padding.

    Source: Che et al. 2018, Recurrent neural networks for multivariate time series with missing values.
    """
    if times.shape != mask.shape[:2] or mask.ndim != 3:
        raise ValueError(
            f"times must be (N, T) and mask (N, T, C), got times {tuple(times.shape)} and mask {tuple(mask.shape)}"
        )
    seen = torch.where(mask.bool(), times[:, :, None], -torch.inf)
    last = seen.cummax(1).values
    before = torch.cat((times[:, :1, None].expand_as(last[:, :1]), last[:, :-1]), 1)
    before = torch.maximum(before, times[:, :1, None])
    return (times[:, :, None] - before).nan_to_num(0.0)


def _require_triplets(triplets: Triplets, variables: int) -> None:
    """Raise unless the columns of triplets are valid."""
    require_positive_int(variables, "variables")
    for name, column in triplets._asdict().items():
        require_instance(column, Tensor, name, "use torch.as_tensor")
        if column.shape != triplets.record.shape or column.ndim != 1 or not len(column):
            raise ValueError(
                "the columns of triplets must have one length (M,), at least 1, got "
                f"{[tuple(c.shape) for c in triplets]}"
            )
        if name in ("record", "variable") and (column.is_floating_point() or column.dtype == torch.bool):
            raise TypeError(
                f"{name} must hold integers, got dtype {column.dtype}; number them, such as by torch.unique"
            )
        if not bool(torch.isfinite(column).all()):
            row = int(torch.nonzero(~torch.isfinite(column))[0])
            raise ValueError(
                f"{name} must be finite, got {column[row].item()} in row {row}; leave out the row of a missing value"
            )
    wrong = torch.nonzero((triplets.variable < 0) | (triplets.variable >= variables)).flatten()
    if len(wrong):
        raise ValueError(
            f"variable must be in [0, {variables}), got {triplets.variable[wrong[0]].item()} in row {int(wrong[0])}"
        )
