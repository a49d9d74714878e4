import torch

from dampode.weighting import Limits, limits, one_plus, proportional, unit, weight_at


def test_values():
    assert unit(3.0) == 1.0
    assert unit(torch.tensor([3.0])) == 1.0
    assert one_plus(3.0) == 4.0
    assert torch.equal(one_plus(torch.tensor([0.0, 3.0])), torch.tensor([1.0, 4.0]))


def test_which_limits_of_eq9_hold():
    assert limits(unit) == Limits(residual=True, non_residual=False)
    assert limits(one_plus) == Limits(residual=True, non_residual=True)
    assert limits(proportional) == Limits(residual=False, non_residual=True)
    assert limits(lambda lam: 1 + 2 * lam) == Limits(residual=True, non_residual=False)
    assert limits(lambda lam: torch.sqrt(1 + lam)) == Limits(residual=True, non_residual=False)
    assert limits(lambda lam: (1 + lam.square()).sqrt()) == Limits(residual=True, non_residual=True)


def test_the_weight_of_one_number_is_exact_and_detached():
    scale = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert weight_at(unit, 0.7) == 1.0
    assert weight_at(lambda lam: 0.1, 0.7) == 0.1  # not rounded to float32
    assert weight_at(lambda lam: scale * lam, 3.0) == 0.1 * 3.0
