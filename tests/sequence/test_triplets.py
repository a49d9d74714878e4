import math

import pytest
import torch

from dampode.sequence import Scaling, Sequences, Triplets, time_since_observed

ROWS = [  # record, time, variable, value
    (7, 3.0, 1, 10.0),
    (7, 0.0, 0, 1.0),
    (2, 5.0, 1, 30.0),
    (7, 0.0, 1, 20.0),
    (2, 4.0, 0, 5.0),
    (7, 3.0, 1, 14.0),
    (2, 9.0, 0, 7.0),
]


def triplets(rows=ROWS):
    record, time, variable, value = (list(column) for column in zip(*rows, strict=True))
    return Triplets(torch.tensor(record), torch.tensor(time), torch.tensor(variable), torch.tensor(value))


def test_rows_steps_and_masks():
    nan = torch.nan
    series = Sequences.of(triplets(), 3)
    assert series.records.tolist() == [2, 7]
    torch.testing.assert_close(
        series.times, torch.tensor([[4.0, 5.0, 9.0], [0.0, 3.0, nan]], dtype=torch.float64), equal_nan=True
    )
    values = torch.tensor([[[5.0, 0, 0], [0, 30, 0], [7, 0, 0]], [[1, 20, 0], [0, 12, 0], [0, 0, 0]]])
    assert torch.equal(series.values, values)
    assert torch.equal(series.mask, values != 0)


def test_the_order_of_the_rows_does_not_matter():
    one, other = Sequences.of(triplets(), 2), Sequences.of(triplets(ROWS[::-1]), 2)
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(one, other, strict=True))


def test_scaling_is_of_the_training_part_alone():
    train = triplets().of_records(torch.tensor([7]))
    scaling = Scaling.fit(train, 3)
    assert scaling.mean.tolist() == pytest.approx([1.0, 44 / 3, 0.0])
    assert scaling.deviation.tolist() == pytest.approx([1.0, math.sqrt(152 / 9), 1.0])
    assert scaling.time_unit == 3.0
    series = Sequences.of(triplets(), 3, scaling)
    assert series.values[0, 1, 1].item() == pytest.approx((30 - 44 / 3) / math.sqrt(152 / 9))
    torch.testing.assert_close(series.times[0], torch.tensor([4.0, 5.0, 9.0], dtype=torch.float64) / 3)


def test_a_variable_with_values_of_one_kind_keeps_its_spread():
    constant = triplets([(0, 0.0, 0, 5.0), (0, 1.0, 0, 5.0)])
    assert Sequences.of(constant, 1, Scaling.fit(constant, 1)).values.abs().max() == 0


def test_rows_drop_the_padding_they_share():
    series = Sequences.of(triplets(), 2).rows(torch.tensor([1]))
    assert series.times.shape == (1, 2)
    assert series.values.shape == series.mask.shape == (1, 2, 2)
    assert series.records.tolist() == [7]


def test_time_scales_span_the_gaps():
    assert Sequences.of(triplets(), 2).time_scales == (3.0, 5.0)
    with pytest.raises(ValueError, match="two different times"):
        _ = Sequences.of(triplets(ROWS[:1]), 2).time_scales
    with pytest.raises(ValueError, match="two different times"):
        Scaling.fit(triplets(ROWS[:1]), 2)


def test_time_since_observed():
    series = Sequences.of(triplets(), 2)
    expected = [[[0.0, 0.0], [1.0, 1.0], [5.0, 4.0]], [[0, 0], [3, 3], [0, 0]]]
    assert time_since_observed(series.times, series.mask).tolist() == expected
    with pytest.raises(ValueError, match="mask"):
        time_since_observed(series.times, series.mask[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"value": torch.full((7,), torch.nan)}, ValueError, "leave out the row"),
        ({"time": torch.full((7,), torch.inf)}, ValueError, "time must be finite"),
        ({"variable": torch.full((7,), 3)}, ValueError, r"in \[0, 3\)"),
        ({"variable": torch.zeros(7)}, TypeError, "integers"),
        ({"record": torch.zeros(7)}, TypeError, "integers"),
        ({"value": torch.zeros(6)}, ValueError, "one length"),
        ({"value": [1.0] * 7}, TypeError, "as_tensor"),
    ],
)
def test_bad_triplets(change, error, words):
    with pytest.raises(error, match=words):
        Sequences.of(triplets()._replace(**change), 3)


def test_no_triplets_and_another_scaling():
    empty = Triplets(*(column[:0] for column in triplets()))
    with pytest.raises(ValueError, match="at least 1"):
        Sequences.of(empty, 3)
    with pytest.raises(ValueError, match="fit it again"):
        Sequences.of(triplets(), 3, Scaling.fit(triplets(), 2))
