import torch

from dampode.weighting import Limits, limits, one_plus, unit


def test_values():
    assert unit(3.0) == 1.0
    assert unit(torch.tensor([3.0])) == 1.0
    assert one_plus(3.0) == 4.0
    assert torch.equal(one_plus(torch.tensor([0.0, 3.0])), torch.tensor([1.0, 4.0]))


def test_which_limits_of_eq9_hold():
    assert limits(unit) == Limits(residual=True, non_residual=False)
    assert limits(one_plus) == Limits(residual=True, non_residual=True)
    assert limits(lambda lam: lam) == Limits(residual=False, non_residual=True)
    assert limits(lambda lam: 1 + 2 * lam) == Limits(residual=True, non_residual=False)
